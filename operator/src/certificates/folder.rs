//! Certificates that somebody else keeps, such as cert-manager: files of a mounted Secret, read again whenever they
//! may have changed. Nothing is written.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use thiserror::Error;

use super::check::{authorities, is_trusted, serving_key};
use super::fingerprint;
use super::issue::with_authorities_of;
use super::material::CertificateMaterial;

const AUTHORITY: &str = "ca.crt";
const SERVING: &str = "tls.crt";
const SERVING_KEY: &str = "tls.key";
const FINGERPRINT_KEY: &str = "fingerprint.key";

/// Why the files cannot be used. Never with what is in them.
#[derive(Debug, Error)]
pub enum FolderError {
    #[error(
        "{path} cannot be read ({error}): an issuer of cert-manager that gives tls.crt, tls.key and ca.crt is needed"
    )]
    Unreadable { path: PathBuf, error: io::Error },
    #[error(
        "{0} holds no certificate of an authority in PEM: the issuer has to be one that signs by an authority of its \
         own and tells it, such as cert-manager's CA or Vault issuer, and neither ACME nor SelfSigned"
    )]
    NoAuthority(PathBuf),
    #[error("tls.crt and tls.key in {0} are no certificate in PEM and its private key")]
    NoPair(PathBuf),
    #[error(
        "who trusts ca.crt in {folder} does not take tls.crt for {names}: it is of another authority, for other names, \
         or over"
    )]
    NotTrusted { folder: PathBuf, names: String },
    #[error("{0} is no key of fingerprints: it has to be 64 hexadecimal digits")]
    NoFingerprintKey(PathBuf),
}

/// What the files hold now, if clients would take it. Authorities that this replica has published before stay trusted,
/// so that other replicas may come to the new files later.
pub(super) fn read_folder(
    folder: &Path,
    names: &[String],
    remembered: Option<&CertificateMaterial>,
    now: Timestamp,
) -> Result<CertificateMaterial, FolderError> {
    let authority = read(folder, AUTHORITY)?;
    if authorities(&authority).is_empty() {
        return Err(FolderError::NoAuthority(folder.join(AUTHORITY)));
    }
    let serving_key_pem = read(folder, SERVING_KEY)?;
    let material = CertificateMaterial {
        authority,
        // Somebody else signs.
        authority_key: String::new(),
        serving: read(folder, SERVING)?,
        fingerprint_key: fingerprint_key(folder, &serving_key_pem)?,
        serving_key: serving_key_pem,
    };
    let key = serving_key(&material).map_err(|_| FolderError::NoPair(folder.to_owned()))?;
    if !is_trusted(&key, &material.authority, names, now) {
        return Err(FolderError::NotTrusted {
            folder: folder.to_owned(),
            names: names.join(" and "),
        });
    }
    Ok(with_authorities_of(material, remembered, now))
}

fn fingerprint_key(folder: &Path, private_key: &str) -> Result<String, FolderError> {
    match read(folder, FINGERPRINT_KEY) {
        Ok(key) if fingerprint::is_key(key.trim()) => Ok(key.trim().to_owned()),
        Ok(_) => Err(FolderError::NoFingerprintKey(folder.join(FINGERPRINT_KEY))),
        Err(FolderError::Unreadable { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
            Ok(fingerprint::key_from(private_key))
        }
        Err(error) => Err(error),
    }
}

fn read(folder: &Path, name: &str) -> Result<String, FolderError> {
    let path = folder.join(name);
    std::fs::read_to_string(&path).map_err(|error| FolderError::Unreadable { path, error })
}

#[cfg(test)]
mod tests {
    use super::super::issue::{new_authority, new_serving};
    use super::*;

    fn names() -> Vec<String> {
        vec!["mcp-auth-operator.mcp-auth-system.svc".into()]
    }

    fn now() -> Timestamp {
        "2026-11-01T00:00:00Z".parse().unwrap()
    }

    /// A name, files that are other ones, and what is said.
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

    struct Files(tempfile::TempDir);

    impl Files {
        fn of(material: &CertificateMaterial) -> Self {
            let files = Self(tempfile::tempdir().unwrap());
            files.write(AUTHORITY, &material.authority);
            files.write(SERVING, &material.serving);
            files.write(SERVING_KEY, &material.serving_key);
            files
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.0.path().join(name), text).unwrap();
        }

        fn read(&self, remembered: Option<&CertificateMaterial>) -> Result<CertificateMaterial, String> {
            read_folder(self.0.path(), &names(), remembered, now()).map_err(|error| error.to_string())
        }
    }

    #[test]
    fn authorities_of_before_stay_trusted() {
        let [old, new] = [(); 2].map(|()| new_authority(&names(), now()).unwrap());
        let files = Files::of(&new);
        let alone = files.read(None).unwrap();
        assert_eq!(alone.authority, new.authority);
        assert_eq!(alone.serving, new.serving);
        let after_old = files.read(Some(&old)).unwrap();
        assert_eq!(
            authorities(&after_old.authority),
            authorities(&format!("{}{}", new.authority, old.authority))
        );
    }

    #[test]
    fn the_key_of_fingerprints_is_that_of_the_folder_or_comes_of_the_private_key() {
        let material = new_authority(&names(), now()).unwrap();
        let files = Files::of(&material);
        let derived = files.read(None).unwrap().fingerprint_key;
        assert_eq!(derived, fingerprint::key_from(&material.serving_key));
        let key = "1".repeat(64);
        files.write(FINGERPRINT_KEY, &format!("{key}\n"));
        assert_eq!(files.read(None).unwrap().fingerprint_key, key);
        files.write(FINGERPRINT_KEY, "guess");
        let error = files.read(None).err().unwrap();
        assert!(
            error.contains("64 hexadecimal digits") && !error.contains("guess"),
            "{error}"
        );
    }

    #[test]
    fn what_no_client_would_take_is_refused_with_the_reason_and_without_the_key() {
        let material = new_authority(&names(), now()).unwrap();
        let other = new_authority(&names(), now()).unwrap();
        let elsewhere = new_serving(&material, &["elsewhere.svc".to_owned()], now()).unwrap();
        let cases: [Case<'_>; 6] = [
            (
                "no-authority",
                &[(AUTHORITY, "")],
                "no certificate of an authority",
            ),
            (
                "leaf",
                &[(AUTHORITY, &material.serving)],
                "neither ACME nor SelfSigned",
            ),
            (
                "other-key",
                &[(SERVING_KEY, &other.serving_key)],
                "its private key",
            ),
            (
                "no-key",
                &[(SERVING_KEY, "-----BEGIN PRIVATE KEY-----\nsecret")],
                "its private key",
            ),
            (
                "other-authority",
                &[(AUTHORITY, &other.authority)],
                "of another authority",
            ),
            (
                "other-names",
                &[
                    (SERVING, &elsewhere.serving),
                    (SERVING_KEY, &elsewhere.serving_key),
                ],
                "mcp-auth-operator.mcp-auth-system.svc",
            ),
        ];
        for (name, changes, expected) in cases {
            let files = Files::of(&material);
            for (file, text) in changes {
                files.write(file, text);
            }
            let error = files
                .read(None)
                .err()
                .unwrap_or_else(|| panic!("{name} is taken"));
            assert!(error.contains(expected), "{name}: {error}");
            assert!(
                !error.contains("BEGIN") && !error.contains("secret"),
                "{name}: {error}"
            );
        }
        let files = Files::of(&material);
        std::fs::remove_file(files.0.path().join(AUTHORITY)).unwrap();
        let error = files.read(None).err().unwrap();
        assert!(error.contains("ca.crt cannot be read"), "{error}");
    }
}
