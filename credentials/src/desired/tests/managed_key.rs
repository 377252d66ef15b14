use mcp_auth_oauth::{GeneratedKey, SigningKey};
use secrecy::ExposeSecret;

use super::*;

fn wanting(client_id: Option<&str>) -> McpServerAuthSpec {
    let mut oauth2 = json!({
        "tokenUrl": "https://auth.example.com/token",
        "clientAuthentication": {"method": "PrivateKeyJwt", "privateKeyJwt": {"managed": {}}},
    });
    if let Some(client_id) = client_id {
        oauth2["clientId"] = json!(client_id);
    }
    spec(oauth2)
}

fn made(client_id_metadata: Option<&str>) -> ManagedKey {
    let pem = GeneratedKey::P256.generate();
    let key = SigningKey::parse(pem.expose_secret(), None, None).unwrap();
    ManagedKey {
        key: key.with_thumbprint_as_id(),
        client_id_metadata: client_id_metadata.map(str::to_owned),
    }
}

fn with(
    spec: &McpServerAuthSpec,
    managed_key: Option<Result<ManagedKey, NotServedError>>,
) -> Result<ClientConfiguration, NotServedError> {
    let inputs = Inputs {
        references: &[],
        workload: no_assertions,
        managed_key,
        known_issuer: None,
        policy: &AdministratorPolicy::default(),
        egress_proxy: None,
    };
    match desired(spec, &inputs)?.source {
        DesiredSource::OAuth2(configuration) => Ok(*configuration),
        DesiredSource::Secret(_) => panic!("not a given token"),
    }
}

#[test]
fn another_key_asks_in_another_way_and_the_same_key_in_the_same() {
    let (one, other) = (made(None), made(None));
    let digest = |key: &ManagedKey| {
        let configuration = with(&wanting(Some("litellm")), Some(Ok(key.clone()))).unwrap();
        configuration.request_digest
    };
    assert_eq!(digest(&one), digest(&one));
    assert_ne!(digest(&one), digest(&other));
}

#[test]
fn a_client_without_a_name_is_named_by_its_metadata_document_or_told_that_there_is_none() {
    let url = "https://keys.example.com/clients/llm/tools/client.json";
    let id = |client_id, metadata| {
        let configuration = with(&wanting(client_id), Some(Ok(made(metadata))))?;
        Ok::<_, NotServedError>(configuration.registration.client_id.unwrap().to_string())
    };
    assert_eq!(id(None, Some(url)).unwrap(), url);
    assert_eq!(id(Some("litellm"), Some(url)).unwrap(), "litellm");
    let error = id(None, None).unwrap_err();
    assert_eq!(error.reason(), "InvalidSpec");
    assert!(error.message().contains("managedKeys.url"), "{}", error.message());
}

#[test]
fn a_key_that_is_not_there_yet_is_waited_for_and_one_that_nobody_makes_is_refused() {
    let pending = NotServedError::new(NotServedReason::Pending, "the operator is making the key");
    let error = with(&wanting(Some("litellm")), Some(Err(pending))).unwrap_err();
    assert!(error.is_pending());
    let error = with(&wanting(Some("litellm")), None).unwrap_err();
    assert!(
        error
            .message()
            .contains("privateKeyJwt.managed needs the operator")
    );
}
