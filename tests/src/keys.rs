//! Private keys for clients, made by openssl: RSA keys are nothing that the product's own libraries can make.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::seen;

/// Signature algorithms, as the resource names them.
pub const ALGORITHMS: [&str; 5] = ["RS256", "PS256", "ES256", "ES384", "EdDSA"];

/// A key pair for one algorithm.
#[derive(Clone, Debug)]
pub struct Key {
    pub id: String,
    pub algorithm: String,
    /// PKCS#8.
    pub private_pem: String,
    pub public_pem: String,
}

impl Key {
    pub async fn new(algorithm: &str, id: &str) -> Self {
        let arguments: &[&str] = match algorithm {
            "RS256" | "PS256" => &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
            "ES256" => &[
                "genpkey",
                "-algorithm",
                "EC",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ],
            "ES384" => &[
                "genpkey",
                "-algorithm",
                "EC",
                "-pkeyopt",
                "ec_paramgen_curve:P-384",
            ],
            "EdDSA" => &["genpkey", "-algorithm", "ED25519"],
            other => panic!("no key is made for {other}"),
        };
        let private_pem = openssl(arguments, "").await;
        seen::note(&private_pem);
        let public_pem = openssl(&["pkey", "-pubout"], &private_pem).await;
        Self {
            id: id.to_owned(),
            algorithm: algorithm.to_owned(),
            private_pem,
            public_pem,
        }
    }

    /// A certificate for this key that is signed by it, in PEM.
    pub async fn self_signed(&self) -> String {
        let arguments = [
            "req",
            "-x509",
            "-new",
            "-key",
            "/dev/stdin",
            "-subj",
            "/CN=client",
            "-days",
            "7",
        ];
        openssl(&arguments, &self.private_pem).await
    }

    /// The public half (RFC 7517).
    pub async fn jwk(&self) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let body: String = self
            .public_pem
            .lines()
            .filter(|line| !line.starts_with('-'))
            .collect();
        let der = STANDARD.decode(body).expect("PEM is base64");
        // The key is what a SubjectPublicKeyInfo ends with.
        let end = |length: usize| &der[der.len() - length..];
        let mut jwk = match &*self.algorithm {
            "ES256" => {
                let (x, y) = end(64).split_at(32);
                json!({"kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y)})
            }
            "ES384" => {
                let (x, y) = end(96).split_at(48);
                json!({"kty": "EC", "crv": "P-384", "x": encode(x), "y": encode(y)})
            }
            "EdDSA" => json!({"kty": "OKP", "crv": "Ed25519", "x": encode(end(32))}),
            _ => {
                let modulus = openssl(&["rsa", "-noout", "-modulus"], &self.private_pem).await;
                let modulus = modulus.trim().trim_start_matches("Modulus=");
                json!({"kty": "RSA", "n": encode(&from_hexadecimal(modulus)), "e": "AQAB"})
            }
        };
        jwk["kid"] = json!(self.id);
        jwk["alg"] = json!(self.algorithm);
        jwk["use"] = json!("sig");
        jwk
    }
}

/// The public key of a certificate for P-256, with the certificate (`x5c`): how a client registers one that it has signed itself
/// (RFC 8705 section 2.2.2).
pub async fn certified(certificate: &str) -> Value {
    let public_pem = openssl(&["x509", "-noout", "-pubkey"], certificate).await;
    let key = Key {
        id: "certified".to_owned(),
        algorithm: "ES256".to_owned(),
        private_pem: String::new(),
        public_pem,
    };
    let mut jwk = key.jwk().await;
    let lines = certificate.lines().filter(|line| !line.starts_with('-'));
    jwk["x5c"] = json!([lines.collect::<String>()]);
    jwk
}

/// `x5t` and `x5t#S256` of a certificate (RFC 7515 sections 4.1.7 and 4.1.8).
pub async fn thumbprints(certificate: &str) -> [String; 2] {
    let mut thumbprints = [const { String::new() }; 2];
    for (thumbprint, digest) in thumbprints.iter_mut().zip(["-sha1", "-sha256"]) {
        let printed = openssl(&["x509", "-noout", "-fingerprint", digest], certificate).await;
        let (_, hexadecimal) = printed.trim().split_once('=').expect("NAME=AB:CD");
        *thumbprint = URL_SAFE_NO_PAD.encode(from_hexadecimal(&hexadecimal.replace(':', "")));
    }
    thumbprints
}

/// As openssl prints numbers.
fn from_hexadecimal(digits: &str) -> Vec<u8> {
    let pairs = (0..digits.len()).step_by(2);
    let bytes = pairs.map(|at| u8::from_str_radix(&digits[at..at + 2], 16));
    bytes.collect::<Result<_, _>>().expect("hexadecimal digits")
}

async fn openssl(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("openssl is installed");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).await.expect("openssl reads");
    drop(stdin);
    let output = child.wait_with_output().await.expect("openssl ends");
    assert!(
        output.status.success(),
        "openssl {arguments:?}: {}",
        output.status
    );
    String::from_utf8(output.stdout).expect("openssl prints text")
}
