//! Certificates by openssl: an authority, what it issues, and keys in the forms that people have.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory with an authority in it: `ca.pem`, `ca.key`.
pub struct Pki {
    dir: PathBuf,
}

/// How a private key is written.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    Sec1,
    Pkcs1,
    Pkcs8,
}

pub fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Names whichever of the programs is missing.
pub fn have(test: &str, programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| !Path::new("/usr/bin").join(program).exists());
    if let Some(missing) = missing {
        eprintln!("SKIPPED {test}: needs {missing} (apt install {missing})");
    }
    missing.is_none()
}

impl Pki {
    pub fn new(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let pki = Self { dir: dir.to_owned() };
        pki.self_signed("ca", &[]);
        pki
    }

    /// A file of this directory, as text.
    pub fn at(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn openssl(&self, line: &str, more: &[&str]) {
        run(Command::new("openssl").args(line.split(' ')).args(more).current_dir(&self.dir));
    }

    /// `NAME.pem` and `NAME.key`, an authority of its own.
    pub fn self_signed(&self, name: &str, more: &[&str]) {
        let line = format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout {name}.key -out {name}.pem -subj"
        );
        let subject = format!("/CN=gantry test {name}");
        self.openssl(&line, &[&[subject.as_str()], more].concat());
    }

    /// `NAME.pem` and `NAME.key`, issued by an authority here (`ca` or another one that is its own). `san` as in
    /// `IP:127.0.0.1`.
    pub fn issue(&self, name: &str, by: &str, form: Form, san: &str) {
        match form {
            Form::Sec1 => self.openssl(&format!("ecparam -name prime256v1 -genkey -noout -out {name}.key"), &[]),
            Form::Pkcs1 => self.openssl(&format!("genrsa -traditional -out {name}.key 2048"), &[]),
            Form::Pkcs8 => self.openssl(&format!("genpkey -algorithm RSA -out {name}.key"), &[]),
        }
        let san = format!("subjectAltName={san}");
        self.openssl(&format!("req -new -key {name}.key -out {name}.csr -subj /CN={name} -addext"), &[&san]);
        let line = format!(
            "x509 -req -in {name}.csr -CA {by}.pem -CAkey {by}.key -CAcreateserial -days 2 -copy_extensions copyall -out {name}.pem"
        );
        self.openssl(&line, &[]);
    }
}
