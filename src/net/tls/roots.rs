//! Reads certificate authorities. A file or directory that is configured and cannot be used is an error: other authorities in
//! its place would hide the mistake.

use std::path::{Path, PathBuf};
use std::sync::Once;

use rustls::RootCertStore;
use rustls_native_certs::load_certs_from_paths;

use crate::net::tls::pem_files::read_certificates;
use crate::util::error::reason;

/// Bundles of Linux distributions, as in the crate openssl-probe.
const BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt", // Debian, Ubuntu, Arch, Alpine
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // RHEL 7 and later
    "/etc/pki/tls/certs/ca-bundle.crt",   // Fedora
    "/etc/ssl/ca-bundle.pem",             // SUSE
    "/etc/pki/tls/cacert.pem",            // OpenELEC
    "/etc/ssl/cert.pem",                  // Alpine
];

const CA_FILE: &str = "tls.ca_file";

/// All certificate authorities for a connection.
pub(super) fn load(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    Sources::from_environment(CA_FILE, ca_file).load()
}

/// The same with the file of another setting than `tls.ca_file`.
pub fn authorities_with(setting: &'static str, file: &Path) -> Result<RootCertStore, String> {
    Sources::from_environment(setting, Some(file)).load()
}

/// Whether every configured file and directory can be used.
pub fn check_authorities(ca_file: Option<&Path>) -> Result<(), String> {
    load(ca_file).map(drop)
}

/// Whether `tls.ca_file` can be used.
pub fn check_ca_file(path: &Path) -> Result<(), String> {
    authorities_of(path).map(drop)
}

/// The certificate authorities of a file only.
pub fn authorities_of(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    add_file(&mut roots, path)?;
    Ok(roots)
}

/// Where certificate authorities are read from.
struct Sources {
    /// `SSL_CERT_FILE`.
    file: Option<PathBuf>,
    /// `SSL_CERT_DIR`, separated by colons.
    directories: Vec<PathBuf>,
    /// The distribution's bundle, used when neither variable is set. Its directory is not: every file in it would become a
    /// trust anchor, the certificates of this machine's servers included.
    bundle: Option<PathBuf>,
    /// File of the setting `ca_setting`.
    ca_file: Option<PathBuf>,
    ca_setting: &'static str,
}

impl Sources {
    /// Empty variables are ignored.
    fn from_environment(ca_setting: &'static str, ca_file: Option<&Path>) -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let directories = variable("SSL_CERT_DIR").unwrap_or_default();
        // A bundle that cannot be looked for is an error when it is read.
        let exists = |path: &PathBuf| path.try_exists().unwrap_or(true);
        Self {
            file: variable("SSL_CERT_FILE").map(PathBuf::from),
            directories: std::env::split_paths(&directories)
                .filter(|path| !path.as_os_str().is_empty())
                .collect(),
            bundle: BUNDLES.iter().map(PathBuf::from).find(exists),
            ca_file: ca_file.map(Path::to_owned),
            ca_setting,
        }
    }

    fn load(&self) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = &self.file {
            add_file(&mut roots, path).map_err(|why| format!("SSL_CERT_FILE: {why}"))?;
        }
        for path in &self.directories {
            add_directory(&mut roots, path).map_err(|why| format!("SSL_CERT_DIR: {why}"))?;
        }
        if self.file.is_none() && self.directories.is_empty() {
            self.add_system(&mut roots)?;
        }
        if let Some(path) = &self.ca_file {
            let wrong = |why| format!("{}: {why}", self.ca_setting);
            add_file(&mut roots, path).map_err(wrong)?;
        }
        Ok(roots)
    }

    /// The system's bundle, or the built-in authorities where there is none.
    fn add_system(&self, roots: &mut RootCertStore) -> Result<(), String> {
        let Some(path) = &self.bundle else {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            return Ok(());
        };
        match add_file(roots, path) {
            // In a container with an empty bundle, those of tls.ca_file are enough.
            Err(why) if self.ca_file.is_some() => log_once(&why),
            Err(why) => return Err(format!("certificate authorities of the system: {why}")),
            Ok(()) => {}
        }
        Ok(())
    }
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let cannot = |why: String| format!("cannot read {}: {why}", path.display());
    match roots.add_parsable_certificates(read_certificates(path)?) {
        (0, ignored) => Err(cannot(format!("none of its {ignored} certificates is valid X.509"))),
        // Bundles contain a few certificates that rustls cannot parse.
        (_, ignored) => {
            if ignored > 0 {
                log_once(&cannot(format!(
                    "{ignored} of its certificates, which are not valid X.509"
                )));
            }
            Ok(())
        }
    }
}

fn add_directory(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let cannot = |error| format!("cannot read {}: {}", path.display(), reason(&error));
    std::fs::read_dir(path).map_err(cannot)?;
    let loaded = load_certs_from_paths(None, Some(path));
    let (added, _) = roots.add_parsable_certificates(loaded.certs);
    let errors: Vec<String> = loaded.errors.iter().map(ToString::to_string).collect();
    match added {
        0 if errors.is_empty() => Err(format!("{} contains no certificate", path.display())),
        0 => Err(format!("{} contains no certificate: {}", path.display(), errors.join(", "))),
        _ => {
            errors.iter().for_each(|error| log_once(&format!("SSL_CERT_DIR: {error}")));
            Ok(())
        }
    }
}

/// Logs a problem that prevents no connection, and only at the first one.
fn log_once(problem: &str) {
    static LOGGED: Once = Once::new();
    LOGGED.call_once(|| log::warn!("certificate authorities: {problem}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Dir(PathBuf);

    impl Dir {
        /// With the certificates `one.pem` and `two.pem`, and files and a directory that contain none.
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("hm-tls-{name}-{}", std::process::id()));
            fs::create_dir_all(dir.join("no-certificates")).unwrap();
            for name in ["one", "two"] {
                let key = rcgen::KeyPair::generate().unwrap();
                let params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
                let certificate = params.self_signed(&key).unwrap().pem();
                fs::write(dir.join(format!("{name}.pem")), &certificate).unwrap();
                fs::write(dir.join("truncated.pem"), &certificate[..certificate.len() / 2])
                    .unwrap();
            }
            fs::write(dir.join("empty.pem"), "").unwrap();
            fs::write(dir.join("text.pem"), "not a certificate").unwrap();
            let garbled = pem("not DER");
            fs::write(dir.join("garbled.pem"), &garbled).unwrap();
            let one = fs::read_to_string(dir.join("one.pem")).unwrap();
            fs::write(dir.join("partly-garbled.pem"), one + &garbled).unwrap();
            Self(dir)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn pem(der: &str) -> String {
        let text = data_encoding::BASE64.encode(der.as_bytes());
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    }

    const NOTHING: Sources = Sources {
        file: None,
        directories: Vec::new(),
        bundle: None,
        ca_file: None,
        ca_setting: CA_FILE,
    };

    fn count(sources: &Sources) -> usize {
        sources.load().unwrap().len()
    }

    #[test]
    fn uses_variables_or_bundle_or_built_in_authorities() {
        let dir = Dir::new("sources");
        let (one, two) = (Some(dir.path("one.pem")), Some(dir.path("two.pem")));
        let built_in = webpki_roots::TLS_SERVER_ROOTS.len();
        assert_eq!(count(&NOTHING), built_in);
        assert_eq!(count(&Sources { ca_file: one.clone(), ..NOTHING }), built_in + 1);
        let bundle = Sources { bundle: one.clone(), ..NOTHING };
        assert_eq!(count(&bundle), 1, "not its whole directory");
        assert_eq!(count(&Sources { ca_file: two.clone(), ..bundle }), 2);
        let file = Sources { file: two, bundle: one.clone(), ..NOTHING };
        assert_eq!(count(&file), 1);
        let directories = vec![dir.0.clone()];
        assert_eq!(count(&Sources { directories: directories.clone(), ..file }), 3);
        assert_eq!(count(&Sources { directories, bundle: one, ..NOTHING }), 2);
        let partly = Some(dir.path("partly-garbled.pem"));
        assert_eq!(count(&Sources { bundle: partly, ..NOTHING }), 1);
    }

    #[test]
    fn unusable_files_are_errors_wherever_they_are_configured() {
        let dir = Dir::new("files");
        for (name, why) in [
            ("missing.pem", "cannot read PATH: no such file or directory"),
            ("no-certificates", "cannot read PATH: not a regular file"),
            ("empty.pem", "PATH contains no certificate in PEM format"),
            ("text.pem", "PATH contains no certificate in PEM format"),
            ("truncated.pem", "cannot read PATH: it ends within a certificate"),
            ("garbled.pem", "cannot read PATH: none of its 1 certificates is valid X.509"),
        ] {
            let path = Some(dir.path(name));
            let why = why.replace("PATH", &dir.path(name).display().to_string());
            let good = Some(dir.path("one.pem"));
            for (sources, setting) in [
                (Sources { file: path.clone(), bundle: good.clone(), ..NOTHING }, "SSL_CERT_FILE"),
                (Sources { ca_file: path.clone(), bundle: good.clone(), ..NOTHING }, "tls.ca_file"),
                (
                    Sources { bundle: path.clone(), ..NOTHING },
                    "certificate authorities of the system",
                ),
            ] {
                assert_eq!(sources.load().unwrap_err(), format!("{setting}: {why}"));
            }
            assert_eq!(count(&Sources { bundle: path, ca_file: good, ..NOTHING }), 1);
        }
    }

    #[test]
    fn every_directory_must_exist_and_contain_certificates() {
        let dir = Dir::new("directories");
        for (name, why) in [
            ("missing", "cannot read PATH: no such file or directory"),
            ("one.pem", "cannot read PATH: not a directory"),
            ("no-certificates", "PATH contains no certificate"),
        ] {
            let directories = vec![dir.0.clone(), dir.path(name)];
            let sources = Sources { directories, ..NOTHING };
            let why = why.replace("PATH", &dir.path(name).display().to_string());
            assert_eq!(sources.load().unwrap_err(), format!("SSL_CERT_DIR: {why}"));
        }
    }

    #[test]
    fn fifo_and_endless_device_are_rejected_without_waiting() {
        let dir = Dir::new("fifo");
        let fifo = dir.path("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [fifo, PathBuf::from("/dev/zero")] {
            assert!(check_ca_file(&path).unwrap_err().ends_with("not a regular file"));
        }
    }
}
