//! The systemd driver: a container's cgroup is a transient scope, which systemd makes, limits and removes.
//!
//! `name` says which unit (pure), `properties`, `devices` and `annotation` what it is told (pure), `bus` speaks
//! to it; what systemd cannot express is written to the cgroup's files as the other driver does.
//!
//! ```text
//!  create: clone ── record ── StartTransientUnit(PIDs=[child]) ── JobRemoved ── files ── the child goes on (Placed)
//!  update: SetUnitProperties ── files            delete: kill ── StopUnit, ResetFailedUnit ── rmdir
//! ```
//!
//! A scope cannot be without a process, so the child is cloned first, waits, and is moved by systemd; that is also the
//! only way in for a user without privileges. Which driver a container has is part of its facts: no verb but `create`
//! and `run` needs the flag. systemd's side: docs/CONTROL_GROUP_INTERFACE, org.freedesktop.systemd1(5).

mod annotation;
mod bus;
mod devices;
#[cfg(test)]
mod fake;
mod message;
mod name;
mod properties;
mod wire;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxResources, Spec};

pub use self::annotation::PREFIX as ANNOTATION_PREFIX;
use self::bus::{Bus, PATIENCE, Place, Refusal};
pub use self::name::{Owner, Unit};
use self::properties::{About, Property, property};
use self::wire::Value;
use super::{Cgroup, Version};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::process;

/// Shared by those errors that only mean: it is gone.
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";

impl Owner {
    /// Whose systemd this process has to ask: its own user's, unless it is root of the whole host.
    pub fn here() -> Owner {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let whole = map.split_whitespace().eq(["0", "0", "4294967295"]);
        if nix::unistd::geteuid().is_root() && whole { Owner::System } else { Owner::User }
    }

    fn connect(self) -> Result<Bus> {
        let places = match self {
            Owner::System => Place::of_system(),
            Owner::User => {
                let address = std::env::var("DBUS_SESSION_BUS_ADDRESS").ok();
                let dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
                Place::of_user(address.as_deref(), dir.as_deref())
            }
        };
        Bus::connect(&places, PATIENCE)
    }
}

impl Unit {
    /// The unit of a new container, as `linux.cgroupsPath` asks.
    ///
    /// # Errors
    /// As [`Unit::of`].
    pub fn of_spec(spec: &Spec, id: &str) -> Result<Unit> {
        let asked = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
        let text = |path: &Path| path.to_str().map(str::to_owned);
        Unit::of(asked.and_then(text).as_deref(), id, Owner::here())
    }

    /// Its cgroup below every mount; that of a user's unit is below that of the user's systemd, which is asked.
    ///
    /// # Errors
    /// `Invalid` for an impossible name, `Unsupported` without a systemd.
    pub fn cgroup(&self) -> Result<PathBuf> {
        let path = self.path()?;
        if self.owner == Owner::System {
            return Ok(path);
        }
        let above = self.owner.connect()?.manager_property("ControlGroup").context(|| "ask systemd for its cgroup")?;
        Ok(Path::new(above.trim_start_matches('/')).join(path))
    }

    /// Has systemd make the unit around process `pid`, and gives it its limits; the process is in it afterwards.
    ///
    /// # Errors
    /// `Unsupported` without a systemd, `Invalid` with a JSON path, `System` with systemd's sentence.
    pub fn start(&self, cgroup: &Cgroup, spec: &Spec, pid: i32) -> Result<()> {
        let go = || -> Result<()> {
            let mut bus = self.owner.connect()?;
            let about = self.about(&mut bus, cgroup)?;
            let wanted = self.wanted(spec, about, pid)?;
            self.start_on(&mut bus, &wanted)
        };
        go().context(|| format!("start the unit {}", self.name))?;
        cgroup.create()?;
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        if let Some(resources) = resources {
            cgroup.apply(&whole_percents(resources))?;
        }
        match cgroup.apply_devices(resources) {
            // Neither may such a user make a device, nor keep anybody from one.
            Err(_) if process::is_unprivileged() => {}
            applied => applied?,
        }
        super::owner(spec).map_or(Ok(()), |uid| cgroup.hand_over(uid))?;
        if !cgroup.layout().is_pure_v2() {
            // The trees that systemd does not know: cpuset, freezer, ...
            cgroup.join(pid)?;
        }
        if !cgroup.pids()?.contains(&pid) {
            let what = format!("systemd has not put process {pid} into {}", cgroup.path().display());
            return Err(Error::new(Kind::System, what));
        }
        Ok(())
    }

    /// Gives the unit new limits, and where `devices` is given its device rules; what `resources` leaves out stays. The
    /// files are the caller's: write [`whole_percents`] of the same resources to them, and the rules afterwards.
    ///
    /// # Errors
    /// As [`Unit::start`].
    pub fn set(&self, cgroup: &Cgroup, resources: &LinuxResources, devices: Option<&LinuxResources>) -> Result<()> {
        let go = || -> Result<()> {
            let mut bus = self.owner.connect()?;
            let about = self.about(&mut bus, cgroup)?;
            let mut wanted = properties::limits(resources, about)?;
            if devices.is_some() {
                wanted.extend(devices::properties(&super::devices::rules(devices)?));
            }
            if wanted.is_empty() {
                return Ok(());
            }
            // On v1 it denies everything before it allows anything: nobody may open a device in between.
            let still = devices.is_some() && about.version == Version::V1 && !cgroup.is_frozen()?;
            if still {
                cgroup.freeze()?;
            }
            // Until the next boot: a transient unit is not longer.
            let arguments = vec![Value::text(&*self.name), Value::Bool(true), encode(&wanted)];
            let answer = bus.manager("SetUnitProperties", arguments);
            if still {
                cgroup.thaw()?;
            }
            answer?.map_err(Refusal::into_error).map(drop)
        };
        go().context(|| format!("set the limits of the unit {}", self.name))
    }

    /// Has systemd move a process into the unit: what a user may not do by themselves from another cgroup.
    ///
    /// # Errors
    /// As [`Unit::start`].
    pub fn attach(&self, pid: i32) -> Result<()> {
        let go = || -> Result<()> {
            let pids = Value::List("u".into(), vec![Value::U32(pid.unsigned_abs())]);
            let arguments = vec![Value::text(&*self.name), Value::text("/"), pids];
            let answer = self.owner.connect()?.manager("AttachProcessesToUnit", arguments)?;
            answer.map_err(Refusal::into_error)?;
            Ok(())
        };
        go().context(|| format!("move process {pid} into the unit {}", self.name))
    }

    /// Has systemd forget the unit, and waits until it has. That it is gone already is no error: it goes with its last
    /// process. A unit of the same name that has another cgroup than `cgroup` belongs to somebody else and stays.
    ///
    /// # Errors
    /// `System`, if systemd does not answer.
    pub fn stop(&self, cgroup: &Path) -> Result<()> {
        let go = || self.stop_on(&mut self.owner.connect()?, cgroup);
        go().context(|| format!("stop the unit {}", self.name))
    }

    fn about(&self, bus: &mut Bus, cgroup: &Cgroup) -> Result<About> {
        let version = if cgroup.layout().is_pure_v2() { Version::V2 } else { Version::V1 };
        if self.owner == Owner::User && version == Version::V1 {
            let what = "the systemd of a user can limit nothing on cgroup v1; leave --systemd-cgroup out";
            return Err(Error::new(Kind::Unsupported, what));
        }
        let text = bus.manager_property("Version").context(|| "ask systemd for its version")?;
        Ok(About { systemd: properties::version(&text), version })
    }

    /// Everything that a new unit is told.
    fn wanted(&self, spec: &Spec, about: About, pid: i32) -> Result<Vec<Property>> {
        let on = |name: &str| property(name, Value::Bool(true));
        let io = if about.version == Version::V1 { "BlockIOAccounting" } else { "IOAccounting" };
        let mut wanted = vec![
            property("Description", Value::Text(format!("container {}", self.name.trim_end_matches(".scope")))),
            property("Slice", Value::text(&*self.slice)),
            on("Delegate"),
            property("PIDs", Value::List("u".into(), vec![Value::U32(pid.unsigned_abs())])),
            on("MemoryAccounting"),
            on("CPUAccounting"),
            on(io),
            on("TasksAccounting"),
            property("DefaultDependencies", Value::Bool(false)),
        ];
        wanted.extend(annotation::properties(&spec.annotations().clone().unwrap_or_default())?);
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        if let Some(resources) = resources {
            wanted.extend(properties::oom_policy(resources, about));
            wanted.extend(properties::limits(resources, about)?);
        }
        wanted.extend(devices::properties(&super::devices::rules(resources)?));
        Ok(wanted)
    }

    fn start_on(&self, bus: &mut Bus, wanted: &[Property]) -> Result<()> {
        let arguments = vec![
            Value::text(&*self.name),
            Value::text("replace"),
            encode(wanted),
            // Auxiliary units: none.
            Value::List("(sa(sv))".into(), Vec::new()),
        ];
        let mut answer = bus.manager("StartTransientUnit", arguments.clone())?;
        if answer.as_ref().is_err_and(|refusal| refusal.name == UNIT_EXISTS) {
            // One that failed keeps its name until it is reset.
            self.reset(bus)?;
            answer = bus.manager("StartTransientUnit", arguments)?;
        }
        match bus.await_job(&answer.map_err(Refusal::into_error)?)?.as_str() {
            "done" => Ok(()),
            result => {
                self.reset(bus)?;
                Err(Error::new(Kind::System, format!("systemd's job ended with {result:?}, not done")))
            }
        }
    }

    fn stop_on(&self, bus: &mut Bus, cgroup: &Path) -> Result<()> {
        // Empty for a unit that is not there, or that failed and has none any more.
        let has = bus.property(&self.object(), "org.freedesktop.systemd1.Scope", "ControlGroup")?;
        if Path::new(has.trim_start_matches('/')) == cgroup {
            match bus.manager("StopUnit", vec![Value::text(&*self.name), Value::text("replace")])? {
                Ok(answer) => drop(bus.await_job(&answer)?),
                Err(Refusal { name, .. }) if name == NO_SUCH_UNIT => return Ok(()),
                Err(refusal) => return Err(refusal.into_error()),
            }
        }
        self.reset(bus)
    }

    /// Its object on the bus: what is neither letter nor digit is written as `_2d`.
    fn object(&self) -> String {
        let escape = |(at, byte): (usize, u8)| match byte {
            b'0'..=b'9' if at > 0 => char::from(byte).to_string(),
            b'a'..=b'z' | b'A'..=b'Z' => char::from(byte).to_string(),
            _ => format!("_{byte:02x}"),
        };
        let escaped: String = self.name.bytes().enumerate().map(escape).collect();
        format!("/org/freedesktop/systemd1/unit/{escaped}")
    }

    /// Whatever it answers: most units never failed.
    fn reset(&self, bus: &mut Bus) -> Result<()> {
        bus.manager("ResetFailedUnit", vec![Value::text(&*self.name)]).map(drop)
    }
}

/// The resources with a quota that systemd can keep, so that its next reload changes nothing.
pub fn whole_percents(resources: &LinuxResources) -> Cow<'_, LinuxResources> {
    let Some(cpu) = resources.cpu() else { return Cow::Borrowed(resources) };
    let quota = cpu.quota().unwrap_or(0);
    let rounded = properties::rounded(quota, cpu.period().unwrap_or(0));
    if rounded == quota {
        return Cow::Borrowed(resources);
    }
    let mut cpu = cpu.clone();
    cpu.set_quota(Some(rounded));
    let mut resources = resources.clone();
    resources.set_cpu(Some(cpu));
    Cow::Owned(resources)
}

/// `a(sv)`.
fn encode(wanted: &[Property]) -> Value {
    let pair =
        |(name, value): &Property| Value::Struct(vec![Value::text(&**name), Value::Variant(Box::new(value.clone()))]);
    Value::List("(sv)".into(), wanted.iter().map(pair).collect())
}
