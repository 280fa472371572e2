//! The kubelet driven from both ends: a fake CRI server and a fake API server at the wire, in memory, with
//! scripted behaviour. No root needed: cgroups are off, and no volume here mounts anything.

mod cases;
mod fake_api;
mod fake_cri;
mod house;
mod serving;
