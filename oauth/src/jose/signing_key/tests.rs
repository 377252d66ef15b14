use std::collections::BTreeSet;

use mcp_auth_http_auth::pem;
use p521::ecdsa::signature::Verifier;
use proptest::prelude::*;
use ring::signature::{KeyPair, UnparsedPublicKey, VerificationAlgorithm};
use serde_json::{Value, json};

use super::*;

const RSA: &str = include_str!("testdata/rsa.pem");
const RSA_PKCS1: &str = include_str!("testdata/rsa.pkcs1.pem");
const RSA_JWK: &str = include_str!("testdata/rsa.jwk.json");
const RSA_PSS: &str = include_str!("testdata/rsa-pss.pem");
const RSA_1024: &str = include_str!("testdata/rsa-1024.pem");
const EC: &str = include_str!("testdata/ec.pem");
const EC_SEC1: &str = include_str!("testdata/ec.sec1.pem");
const EC_JWK: &str = include_str!("testdata/ec.jwk.json");
const EC_BARE: &str = include_str!("testdata/ec-without-public.pem");
const EC_BARE_SEC1: &str = include_str!("testdata/ec-without-public.sec1.pem");
const P384: &str = include_str!("testdata/p384.pem");
const P384_SEC1: &str = include_str!("testdata/p384.sec1.pem");
const P384_JWK: &str = include_str!("testdata/p384.jwk.json");
const P384_BARE: &str = include_str!("testdata/p384-without-public.pem");
const P384_BARE_SEC1: &str = include_str!("testdata/p384-without-public.sec1.pem");
const P521: &str = include_str!("testdata/p521.pem");
const P521_SEC1: &str = include_str!("testdata/p521.sec1.pem");
const P521_JWK: &str = include_str!("testdata/p521.jwk.json");
const SECP256K1: &str = include_str!("testdata/secp256k1.pem");
const SECP256K1_SEC1: &str = include_str!("testdata/secp256k1.sec1.pem");
const ED25519: &str = include_str!("testdata/ed25519.pem");
const ED25519_JWK: &str = include_str!("testdata/ed25519.jwk.json");
const X25519: &str = include_str!("testdata/x25519.pem");
const ED448: &str = include_str!("testdata/ed448.pem");
const ENCRYPTED: &str = include_str!("testdata/encrypted.pem");
const ENCRYPTED_PKCS1: &str = include_str!("testdata/encrypted.pkcs1.pem");
const PUBLIC: &str = include_str!("testdata/public.pem");

const GOOD: [&str; 19] = [
    RSA,
    RSA_PKCS1,
    RSA_JWK,
    RSA_PSS,
    EC,
    EC_SEC1,
    EC_JWK,
    EC_BARE,
    EC_BARE_SEC1,
    P384,
    P384_SEC1,
    P384_JWK,
    P384_BARE,
    P384_BARE_SEC1,
    P521,
    P521_SEC1,
    P521_JWK,
    ED25519,
    ED25519_JWK,
];

fn parse(text: &str) -> Result<SigningKey, KeyError> {
    SigningKey::parse(text, None, None)
}

fn reason(text: &str) -> &'static str {
    parse(text).unwrap_err().reason()
}

fn public(key: &SigningKey) -> Vec<u8> {
    match &*key.pair {
        Pair::Rsa(pair) => pair.public_key().as_ref().to_vec(),
        Pair::Ec(_, pair) => pair.public_key().to_vec(),
        Pair::Ed(pair) => pair.public_key().as_ref().to_vec(),
    }
}

fn verifies(key: &SigningKey) -> bool {
    let by: &dyn VerificationAlgorithm = match key.algorithm() {
        Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
        Algorithm::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
        Algorithm::EdDsa => &signature::ED25519,
        Algorithm::Es512 => {
            let signature = p521::ecdsa::Signature::from_slice(&key.sign(b"message").unwrap()).unwrap();
            let public = p521::ecdsa::VerifyingKey::from_sec1_bytes(&public(key)).unwrap();
            assert!(public.verify(b"another", &signature).is_err());
            return public.verify(b"message", &signature).is_ok();
        }
    };
    let signature = key.sign(b"message").unwrap();
    let public = UnparsedPublicKey::new(by, public(key));
    assert!(public.verify(b"another", &signature).is_err());
    public.verify(b"message", &signature).is_ok()
}

fn changed(jwk: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut jwk = serde_json::from_str(jwk).unwrap();
    change(&mut jwk);
    jwk.to_string()
}

fn without(jwk: &str, member: &str) -> String {
    changed(jwk, |jwk| {
        jwk.as_object_mut().unwrap().remove(member).unwrap();
    })
}

#[test]
fn every_form_of_a_key_is_the_same_key() {
    for (forms, algorithm) in [
        (&[RSA, RSA_PKCS1, RSA_JWK][..], Algorithm::Rs256),
        (&[EC, EC_SEC1, EC_JWK, EC_BARE, EC_BARE_SEC1], Algorithm::Es256),
        (
            &[P384, P384_SEC1, P384_JWK, P384_BARE, P384_BARE_SEC1],
            Algorithm::Es384,
        ),
        (&[P521, P521_SEC1, P521_JWK], Algorithm::Es512),
        (&[ED25519, ED25519_JWK], Algorithm::EdDsa),
    ] {
        let mut keys = BTreeSet::new();
        for form in forms {
            let key = parse(form).unwrap();
            assert_eq!(key.algorithm(), algorithm);
            assert!(verifies(&key));
            keys.insert(public(&key));
        }
        assert_eq!(keys.len(), 1);
    }
}

#[test]
fn an_rsa_key_signs_by_either_padding_and_one_for_pss_by_that_only() {
    let key = SigningKey::parse(RSA, Some(Algorithm::Ps256), None).unwrap();
    assert!(verifies(&key));
    let key = parse(RSA_PSS).unwrap();
    assert_eq!(key.algorithm(), Algorithm::Ps256);
    assert!(verifies(&key));
    let error = SigningKey::parse(RSA_PSS, Some(Algorithm::Rs256), None).unwrap_err();
    assert_eq!(error.reason(), "KeyAlgorithmMismatch");
}

#[test]
fn an_algorithm_that_does_not_fit_is_told_with_those_that_do() {
    for (text, algorithm) in [
        (EC, Algorithm::Rs256),
        (RSA, Algorithm::Es256),
        (ED25519, Algorithm::Es256),
        (EC_JWK, Algorithm::EdDsa),
        (EC, Algorithm::Es384),
        (P384, Algorithm::Es256),
        (P521, Algorithm::Es384),
    ] {
        let error = SigningKey::parse(text, Some(algorithm), None).unwrap_err();
        assert_eq!(error.reason(), "KeyAlgorithmMismatch");
    }
    let error = SigningKey::parse(RSA, Some(Algorithm::Es256), None).unwrap_err();
    assert_eq!(
        error.message(),
        "the algorithm ES256 does not fit: it is an RSA key: set algorithm to RS256 or PS256, leave it out, \
         or use another key"
    );
}

#[test]
fn the_algorithm_is_the_one_set_or_else_the_one_that_the_jwk_names() {
    let jwk = changed(RSA_JWK, |jwk| jwk["alg"] = "PS256".into());
    assert_eq!(parse(&jwk).unwrap().algorithm(), Algorithm::Ps256);
    let key = SigningKey::parse(&jwk, Some(Algorithm::Rs256), None).unwrap();
    assert_eq!(key.algorithm(), Algorithm::Rs256);
    let jwk = changed(EC_JWK, |jwk| jwk["alg"] = "RS256".into());
    assert_eq!(reason(&jwk), "KeyAlgorithmMismatch");
    for name in ["HS256", "none", "RSA-OAEP"] {
        let jwk = changed(RSA_JWK, |jwk| jwk["alg"] = name.into());
        assert_eq!(reason(&jwk), "KeyInvalidJwk");
    }
}

#[test]
fn the_key_id_is_the_one_set_or_else_the_jwks() {
    assert_eq!(parse(EC_JWK).unwrap().key_id(), Some("ec-1"));
    assert_eq!(parse(EC).unwrap().key_id(), None);
    let key = SigningKey::parse(EC_JWK, None, Some("mine".into())).unwrap();
    assert_eq!(key.key_id(), Some("mine"));
}

#[test]
fn each_mistake_is_told_by_its_name() {
    let certificate = rcgen::generate_simple_self_signed(["a.example".into()])
        .unwrap()
        .cert
        .pem();
    let request = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----";
    let openssh = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----";
    let dsa = "-----BEGIN DSA PRIVATE KEY-----\nAAAA\n-----END DSA PRIVATE KEY-----";
    let parameters = "-----BEGIN EC PARAMETERS-----\nAAAA\n-----END EC PARAMETERS-----";
    let twice = base64::prelude::Engine::encode(&base64::prelude::BASE64_STANDARD, RSA);
    for (text, reason, words) in [
        ("", "KeyEmpty", "is empty"),
        ("\u{feff} \n", "KeyEmpty", "is empty"),
        (ENCRYPTED, "KeyEncrypted", "openssl pkcs8"),
        (ENCRYPTED_PKCS1, "KeyEncrypted", "openssl pkcs8"),
        (PUBLIC, "KeyPublic", "a public key instead of a private one"),
        (&certificate, "KeyNone", "a certificate instead of a private key"),
        (request, "KeyNone", "a certificate request"),
        (parameters, "KeyNone", "key parameters alone"),
        (openssh, "KeyUnsupported", "OpenSSH"),
        (dsa, "KeyUnsupported", "a DSA key"),
        (X25519, "KeyUnsupported", "key agreement"),
        (ED448, "KeyUnsupported", "an Ed448 key"),
        (
            SECP256K1,
            "KeyWrongCurve",
            "secp256k1 instead of P-256, P-384 or P-521",
        ),
        (
            SECP256K1_SEC1,
            "KeyWrongCurve",
            "use an RSA, EC P-256, EC P-384, EC",
        ),
        (RSA_1024, "KeyTooSmall", "2048 bits or more"),
        (&format!("{EC}{RSA}"), "KeySeveral", "2 private keys"),
        ("hello", "KeyUnknown", "but other text"),
        ("ssh-ed25519 AAAA me@here", "KeyUnknown", "an SSH public key"),
        ("[1]", "KeyUnknown", "a JSON list"),
        (&twice, "KeyUnknown", "base64 once too often"),
        ("AAAA", "KeyUnknown", "without the lines around it"),
        ("{", "KeyBrokenJson", "broken JSON"),
        ("{\"kty\": \"EC\"} x", "KeyBrokenJson", "broken JSON"),
        ("-----BEGIN PRIVATE KEY", "KeyBrokenPem", "incomplete BEGIN line"),
        (&RSA[..RSA.len() - 40], "KeyBrokenPem", "no END line"),
        (
            &EC.replace("END PRIVATE", "END PUBLIC"),
            "KeyBrokenPem",
            "that differ",
        ),
        (&EC.replace('M', "*"), "KeyBrokenPem", "base64"),
        (
            &EC.trim().replace('\n', "\\n"),
            "KeyBrokenPem",
            "where line breaks belong",
        ),
        (
            "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----",
            "KeyBrokenPem",
            "holds nothing",
        ),
        (
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
            "KeyMalformed",
            "PKCS#8",
        ),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----",
            "KeyMalformed",
            "RSA",
        ),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.reason(), reason, "{text}");
        assert!(error.message().contains(words), "{}", error.message());
    }
}

#[test]
fn each_mistake_in_a_jwk_is_told_by_its_member() {
    let public = |jwk| without(jwk, "d");
    for (jwk, reason, words) in [
        (public(RSA_JWK), "KeyPublic", "a public key"),
        (public(EC_JWK), "KeyPublic", "a public key"),
        (public(ED25519_JWK), "KeyPublic", "a public key"),
        (without(RSA_JWK, "qi"), "KeyInvalidJwk", "\"qi\" is missing"),
        (without(RSA_JWK, "dp"), "KeyInvalidJwk", "\"dp\" is missing"),
        (without(EC_JWK, "crv"), "KeyInvalidJwk", "\"crv\" is missing"),
        (without(EC_JWK, "y"), "KeyInvalidJwk", "\"y\" is missing"),
        (without(EC_JWK, "kty"), "KeyInvalidJwk", "\"kty\" is missing"),
        (
            changed(EC_JWK, |jwk| jwk["kty"] = "XX".into()),
            "KeyInvalidJwk",
            "\"kty\" is none of",
        ),
        (
            changed(EC_JWK, |jwk| jwk["use"] = "enc".into()),
            "KeyInvalidJwk",
            "not for signing",
        ),
        (
            changed(EC_JWK, |jwk| jwk["crv"] = "secp256k1".into()),
            "KeyWrongCurve",
            "secp256k1",
        ),
        (
            changed(EC_JWK, |jwk| jwk["d"] = "a+b/".into()),
            "KeyInvalidJwk",
            "\"d\" is not base64url",
        ),
        (
            changed(EC_JWK, |jwk| jwk["x"] = "".into()),
            "KeyInvalidJwk",
            "\"x\" is empty",
        ),
        (
            changed(EC_JWK, |jwk| jwk["x"] = jwk["y"].clone()),
            "KeyMalformed",
            "EC",
        ),
        (
            changed(EC_JWK, |jwk| jwk["x"] = "A".repeat(100).replace('A', "B").into()),
            "KeyInvalidJwk",
            "longer",
        ),
        (
            changed(P384_JWK, |jwk| jwk["crv"] = "P-256".into()),
            "KeyInvalidJwk",
            "longer",
        ),
        (
            changed(EC_JWK, |jwk| jwk["crv"] = "P-384".into()),
            "KeyMalformed",
            "EC",
        ),
        (
            changed(ED25519_JWK, |jwk| jwk["x"] = jwk["d"].clone()),
            "KeyMalformed",
            "Ed25519",
        ),
        (
            changed(RSA_JWK, |jwk| jwk["dp"] = jwk["dq"].clone()),
            "KeyMalformed",
            "RSA",
        ),
        (
            changed(RSA_JWK, |jwk| jwk["oth"] = json!([])),
            "KeyInvalidJwk",
            "two primes",
        ),
        (
            changed(RSA_JWK, |jwk| jwk["d"] = json!(7)),
            "KeyInvalidJwk",
            "wrong type",
        ),
        (
            json!({"kty": "oct", "k": "AAAA"}).to_string(),
            "KeyUnsupported",
            "symmetric",
        ),
        (
            format!(r#"{{"keys": [{EC_JWK}]}}"#),
            "KeyJwkSet",
            "without the set around it",
        ),
        ("{}".into(), "KeyInvalidJwk", "\"kty\" is missing"),
    ] {
        let error = parse(&jwk).unwrap_err();
        assert_eq!(error.reason(), reason, "{jwk}");
        assert!(error.message().contains(words), "{}", error.message());
    }
}

#[test]
fn harmless_differences_are_forgiven() {
    let padded = changed(EC_JWK, |jwk| {
        for member in ["x", "y", "d"] {
            jwk[member] = format!("{}=", jwk[member].as_str().unwrap()).into();
        }
    });
    for text in [
        padded,
        EC.replace('\n', "\r\n"),
        EC.trim().replace('\n', " "),
        EC.replace('=', ""),
        format!("\u{feff}\n  {EC}"),
        format!("Bag Attributes\n    friendlyName: x\n{EC}"),
        format!("{EC}{PUBLIC}"),
        format!("  {EC_JWK}  "),
    ] {
        assert!(verifies(&parse(&text).unwrap()), "{text}");
    }
}

#[test]
fn neither_debug_output_nor_any_error_repeats_the_key() {
    for text in GOOD {
        let key = parse(text).unwrap();
        let mut seen = format!("{key:?}");
        // Broken in every way that a cut makes.
        for cut in (1..text.len()).step_by(7) {
            if let Err(error) = parse(&text[..cut]) {
                seen += &format!("{error:?} {}", error.message());
            }
        }
        let leaked = text
            .lines()
            .filter(|line| !line.contains("-----"))
            .flat_map(|line| line.as_bytes().windows(16))
            .map(|piece| std::str::from_utf8(piece).unwrap())
            .find(|piece| !piece.contains(' ') && seen.contains(piece));
        assert_eq!(leaked, None);
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,40}".prop_map(Value::from),
        "[A-Za-z0-9_-]{0,90}".prop_map(Value::from),
        proptest::sample::select(vec![
            "RSA", "EC", "OKP", "oct", "P-256", "P-384", "Ed25519", "sig", "ES256", "ES384"
        ])
        .prop_map(Value::from),
        Just(json!([{}])),
    ]
}

proptest! {
    #[test]
    fn parsing_any_text_never_panics(text in "\\PC*") {
        let _ = parse(&text);
    }

    #[test]
    fn parsing_any_der_never_panics(der: Vec<u8>, label in "(RSA |EC |ENCRYPTED )?PRIVATE KEY") {
        let _ = parse(secrecy::ExposeSecret::expose_secret(&pem::encode(&label, &der)));
    }

    #[test]
    fn parsing_any_json_never_panics(
        members in proptest::collection::btree_map(
            "kty|crv|alg|use|kid|n|e|d|p|q|dp|dq|qi|x|y|oth|keys|more", json_value(), 0..18,
        ),
    ) {
        let _ = parse(&json!(members).to_string());
    }

    #[test]
    fn a_key_with_one_byte_changed_is_a_key_or_an_error(
        which in 0..GOOD.len(), at: proptest::sample::Index, byte in b' '..=b'~',
    ) {
        let mut text = GOOD[which].as_bytes().to_vec();
        let at = at.index(text.len());
        text[at] = byte;
        if let Ok(key) = parse(std::str::from_utf8(&text).unwrap()) {
            prop_assert!(verifies(&key));
        }
    }

    #[test]
    fn a_jwk_with_one_member_changed_is_a_key_or_an_error(
        which in proptest::sample::select(vec![RSA_JWK, EC_JWK, P384_JWK, ED25519_JWK]),
        member in "kty|crv|alg|use|n|e|d|p|q|dp|dq|qi|x|y", value in json_value(),
    ) {
        if let Ok(key) = parse(&changed(which, |jwk| jwk[&member] = value)) {
            prop_assert!(verifies(&key));
        }
    }

    #[test]
    fn what_a_key_signs_verifies(which in 0..GOOD.len(), message: Vec<u8>) {
        let key = parse(GOOD[which]).unwrap();
        prop_assert!(verifies(&key));
        prop_assert!(key.sign(&message).is_ok());
    }
}
