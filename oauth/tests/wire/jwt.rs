//! JWTs as a server reads them: verified by the public key, then taken apart.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde_json::Value;

/// Header and claims of a JWT that this P-256 key signed (the point, uncompressed).
pub fn verify(jwt: &str, point: &[u8]) -> (Value, Value) {
    let (message, signature) = jwt.rsplit_once('.').unwrap();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
        .verify(message.as_bytes(), &decode(signature))
        .unwrap();
    read(jwt)
}

/// Header and claims of a DPoP proof that the key which it shows signed.
pub fn verify_proof(proof: &str) -> (Value, Value) {
    let (header, _) = read(proof);
    let coordinate = |name: &str| decode(header["jwk"][name].as_str().unwrap());
    verify(proof, &[vec![4], coordinate("x"), coordinate("y")].concat())
}

fn read(jwt: &str) -> (Value, Value) {
    let mut parts = jwt.split('.').map(|part| serde_json::from_slice(&decode(part)));
    (parts.next().unwrap().unwrap(), parts.next().unwrap().unwrap())
}

fn decode(part: &str) -> Vec<u8> {
    BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()
}
