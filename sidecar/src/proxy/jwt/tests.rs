use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair, RsaPublicKeyComponents,
};
use serde_json::json;

use super::*;

const NOW: i64 = 1_800_000_000;

/// From what is signed to the signature.
type Sign = dyn Fn(&[u8]) -> Vec<u8>;

/// Signs as an issuer does, by one algorithm.
struct Issuer {
    algorithm: &'static str,
    key: VerificationKey,
    sign: Box<Sign>,
}

fn key(members: Value) -> VerificationKey {
    serde_json::from_value(members).unwrap()
}

fn text(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn elliptic(
    algorithm: &'static str,
    curve: &str,
    signing: &'static ring::signature::EcdsaSigningAlgorithm,
) -> Issuer {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(signing, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(signing, pkcs8.as_ref(), &random).unwrap();
    let point = pair.public_key().as_ref()[1..].to_vec();
    let (x, y) = point.split_at(point.len() / 2);
    Issuer {
        algorithm,
        key: key(json!({"kty": "EC", "kid": "1", "crv": curve, "x": text(x), "y": text(y)})),
        sign: Box::new(move |message| pair.sign(&random, message).unwrap().as_ref().to_vec()),
    }
}

fn edwards() -> Issuer {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
    Issuer {
        algorithm: "EdDSA",
        key: key(json!({"kty": "OKP", "kid": "1", "crv": "Ed25519", "x": text(pair.public_key().as_ref())})),
        sign: Box::new(move |message| pair.sign(message).as_ref().to_vec()),
    }
}

fn rsa(algorithm: &'static str, padding: &'static dyn ring::signature::RsaEncoding) -> Issuer {
    let pem = include_bytes!("../../../../oauth/src/jose/signing_key/testdata/rsa.pem");
    let pem = std::str::from_utf8(pem).unwrap();
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(base64).unwrap();
    let pair = RsaKeyPair::from_pkcs8(&der).unwrap();
    let public: RsaPublicKeyComponents<Vec<u8>> = RsaPublicKeyComponents::from(pair.public());
    Issuer {
        algorithm,
        key: key(json!({"kty": "RSA", "kid": "1", "n": text(&public.n), "e": text(&public.e)})),
        sign: Box::new(move |message| {
            let mut signature = vec![0; pair.public().modulus_len()];
            pair.sign(padding, &SystemRandom::new(), message, &mut signature)
                .unwrap();
            signature
        }),
    }
}

impl Issuer {
    fn all() -> Vec<Self> {
        vec![
            rsa("RS256", &RSA_PKCS1_SHA256),
            rsa("PS256", &RSA_PSS_SHA256),
            elliptic("ES256", "P-256", &ECDSA_P256_SHA256_FIXED_SIGNING),
            elliptic("ES384", "P-384", &ECDSA_P384_SHA384_FIXED_SIGNING),
            edwards(),
        ]
    }

    fn verifier(&self) -> JwtVerifier {
        JwtVerifier::new(&JwtVerification {
            issuer: "https://auth.example.com".into(),
            audience: Some("litellm".into()),
            keys: vec![self.key.clone()],
        })
    }

    /// A good token, with these changes to its claims. `null` takes one away.
    fn token(&self, changes: &Value) -> String {
        self.signed(json!({"alg": self.algorithm, "kid": "1"}), changes)
    }

    fn signed(&self, header: Value, changes: &Value) -> String {
        let mut claims = json!({
            "iss": "https://auth.example.com", "aud": ["other", "litellm"], "sub": "ada", "exp": NOW + 300,
        });
        for (name, value) in changes.as_object().unwrap() {
            match value.is_null() {
                true => drop(claims.as_object_mut().unwrap().remove(name)),
                false => claims[name] = value.clone(),
            }
        }
        let message = format!(
            "{}.{}",
            text(header.to_string().as_bytes()),
            text(claims.to_string().as_bytes())
        );
        format!("{message}.{}", text(&(self.sign)(message.as_bytes())))
    }
}

fn verify(verifier: &JwtVerifier, token: &str) -> Result<(), UserProblem> {
    verifier.verify(&Jwt::read(token.as_bytes())?, NOW)
}

#[test]
fn a_token_of_the_issuer_is_verified_by_each_algorithm_and_a_changed_one_is_not() {
    for issuer in Issuer::all() {
        let (verifier, token) = (issuer.verifier(), issuer.token(&json!({})));
        let name = issuer.algorithm;
        assert_eq!(verify(&verifier, &token), Ok(()), "{name}");
        assert_eq!(
            verify(&verifier, &format!("Bearer {token}")),
            Ok(()),
            "{name}, remembered"
        );
        let forged = token.replace(
            token.split('.').nth(1).unwrap(),
            &text(
                json!({"iss": "https://auth.example.com", "aud": "litellm", "sub": "eve", "exp": NOW + 300})
                    .to_string()
                    .as_bytes(),
            ),
        );
        for _ in 0..2 {
            assert_eq!(
                verify(&verifier, &forged),
                Err(UserProblem::SignatureInvalid),
                "{name}"
            );
        }
    }
}

#[test]
fn a_token_that_another_key_signed_names_nobody() {
    let (ours, theirs) = (edwards(), edwards());
    let verifier = ours.verifier();
    assert_eq!(
        verify(&verifier, &theirs.token(&json!({}))),
        Err(UserProblem::SignatureInvalid)
    );
    let other_id = ours.signed(json!({"alg": "EdDSA", "kid": "2"}), &json!({}));
    assert_eq!(verify(&verifier, &other_id), Err(UserProblem::UnknownKey));
    let without_id = ours.signed(json!({"alg": "EdDSA"}), &json!({}));
    assert_eq!(verify(&verifier, &without_id), Ok(()));
}

#[test]
fn no_algorithm_is_taken_that_the_key_is_not_for() {
    let issuer = rsa("RS256", &RSA_PKCS1_SHA256);
    let verifier = issuer.verifier();
    let with = |header: Value| verify(&verifier, &issuer.signed(header, &json!({})));
    for name in ["none", "HS256", "", "ES256K"] {
        assert_eq!(
            with(json!({"alg": name})),
            Err(UserProblem::AlgorithmUnsupported),
            "{name}"
        );
    }
    assert_eq!(with(json!({"alg": "ES256"})), Err(UserProblem::UnknownKey));
    assert_eq!(with(json!({"alg": "PS256"})), Err(UserProblem::SignatureInvalid));
    assert_eq!(
        with(json!({"alg": "RS256", "crit": ["b64"]})),
        Err(UserProblem::AlgorithmUnsupported)
    );
    let mut only = issuer.key.clone();
    only.alg = Some("PS256".into());
    let verification = JwtVerification {
        keys: vec![only],
        ..verifier.verification.clone()
    };
    let strict = JwtVerifier::new(&verification);
    assert_eq!(
        verify(&strict, &issuer.token(&json!({}))),
        Err(UserProblem::UnknownKey)
    );
}

#[test]
fn a_token_of_another_time_issuer_or_audience_says_which() {
    let issuer = edwards();
    let verifier = issuer.verifier();
    for (changes, expected) in [
        (json!({"exp": NOW - 59}), Ok(())),
        (json!({"exp": NOW as f64 - 0.5}), Ok(())),
        (json!({"exp": NOW - 61}), Err(UserProblem::Expired)),
        (json!({"exp": null}), Err(UserProblem::Expired)),
        (json!({"exp": "never"}), Err(UserProblem::Expired)),
        (json!({"nbf": NOW + 59}), Ok(())),
        (json!({"nbf": NOW + 61}), Err(UserProblem::NotYetValid)),
        (
            json!({"iss": "https://auth.example.com/"}),
            Err(UserProblem::OtherIssuer),
        ),
        (json!({"iss": null}), Err(UserProblem::OtherIssuer)),
        (json!({"aud": "litellm"}), Ok(())),
        (json!({"aud": "lite"}), Err(UserProblem::OtherAudience)),
        (json!({"aud": null}), Err(UserProblem::OtherAudience)),
    ] {
        assert_eq!(verify(&verifier, &issuer.token(&changes)), expected, "{changes}");
    }
}

#[test]
fn without_keys_nobody_is_taken_at_their_word() {
    let issuer = edwards();
    let token = issuer.token(&json!({}));
    let verification = |keys| JwtVerification {
        keys,
        ..issuer.verifier().verification
    };
    assert_eq!(
        verify(&JwtVerifier::new(&verification(vec![])), &token),
        Err(UserProblem::NoKeys)
    );
    // Keys that cannot be read are as good as none.
    let broken = [
        json!({"kty": "RSA", "n": "?", "e": "AQAB"}),
        json!({"kty": "EC", "crv": "P-256", "x": "eA", "y": "eQ"}),
        json!({"kty": "EC", "crv": "secp256k1", "x": "eA", "y": "eQ"}),
        json!({"kty": "oct"}),
    ];
    let broken = broken.map(key).to_vec();
    assert_eq!(
        verify(&JwtVerifier::new(&verification(broken)), &token),
        Err(UserProblem::NoKeys)
    );
}

#[test]
fn more_tokens_than_are_remembered_are_verified_all_the_same() {
    let issuer = edwards();
    let verifier = issuer.verifier();
    for number in 0..=MAX_REMEMBERED {
        let token = issuer.token(&json!({"jti": number}));
        assert_eq!(verify(&verifier, &token), Ok(()));
    }
    assert!(verifier.remembered.lock().len() <= MAX_REMEMBERED);
}
