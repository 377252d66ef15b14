//! Whom the search trusts: the MCP server and the authorization server each by authorities of their own.

use std::sync::Arc;

use mcp_auth_oauth::{
    AccessToken, Client, ClientAuthentication, ClientCertificate, Clock, Discovery, Error, Registration,
    ServerLocation,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use tokio_rustls::TlsAcceptor;

use crate::registration;
use crate::server::Server;

/// A server for `localhost`, and the certificate of the authority that vouches for it.
async fn start() -> (Server, String) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let server = Server::start_tls(TlsAcceptor::from(Arc::new(config))).await;
    (server, issuer.pem())
}

async fn search(mcp: &Server, mcp_authority: &str, authority: &str) -> Result<String, Error> {
    let location = ServerLocation::ProtectedResource {
        url: mcp.url("/mcp"),
        ca_bundle: Some(mcp_authority.into()),
        known_issuer: None,
    };
    let registration = Registration {
        allow_insecure_http: false,
        ca_bundle: Some(authority.into()),
        ..registration(location)
    };
    let discovery = Discovery::new(&registration, Clock::system()).unwrap().unwrap();
    discovery.server().await.map(|server| server.issuer.clone())
}

#[tokio::test]
async fn each_server_is_trusted_by_its_own_authority_and_by_no_other() {
    let (mcp, mcp_authority) = start().await;
    let (auth, authority) = start().await;
    mcp.unauthorized("Bearer");
    mcp.json(
        "/.well-known/oauth-protected-resource/mcp",
        mcp.resource(&auth.url("")),
    );
    auth.json(
        "/.well-known/oauth-authorization-server",
        auth.metadata(&auth.url("")),
    );
    assert_eq!(search(&mcp, &mcp_authority, &authority).await, Ok(auth.url("")));
    for (first, second) in [(&mcp_authority, &mcp_authority), (&authority, &authority)] {
        let error = search(&mcp, first, second).await.unwrap_err();
        assert_eq!(error.reason(), "DiscoveryFailed");
        let message = error.message();
        assert!(message.contains("no connection: TLS failed"), "{message}");
        assert!(
            message.contains("oauth2.caBundle for the authorization server"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn a_client_with_a_certificate_revokes_tokens_at_the_address_for_such_clients() {
    let (auth, authority) = start().await;
    let mut metadata = auth.metadata(&auth.url(""));
    metadata["revocation_endpoint"] = json!(auth.url("/revoke"));
    metadata["mtls_endpoint_aliases"] = json!({"revocation_endpoint": auth.url("/mtls/revoke")});
    auth.json("/.well-known/oauth-authorization-server", metadata);
    auth.json("/revoke", json!({}));
    auth.json("/mtls/revoke", json!({}));
    let own = rcgen::generate_simple_self_signed(vec!["client".to_owned()]).unwrap();
    let certificate = ClientAuthentication::Tls(ClientCertificate {
        chain: own.cert.pem(),
        key: own.signing_key.serialize_pem().into(),
    });
    let secret = ClientAuthentication::SecretPost("s3cret".into());
    for (authentication, path) in [(certificate, "/mtls/revoke"), (secret, "/revoke")] {
        let client = Client::new(Registration {
            allow_insecure_http: false,
            ca_bundle: Some(authority.clone()),
            authentication,
            ..registration(ServerLocation::Issuer(auth.url("")))
        })
        .unwrap();
        assert_eq!(
            client.revoke(&AccessToken::new("t0p-s3cret".into())).await,
            Ok(true)
        );
        assert_eq!(*auth.requests().last().unwrap(), format!("POST {path}"));
    }
}

#[tokio::test]
async fn metadata_that_lead_from_https_to_plain_http_are_refused() {
    let (mcp, authority) = start().await;
    let plain = Server::authorization_server().await;
    mcp.unauthorized("Bearer");
    mcp.json(
        "/.well-known/oauth-protected-resource/mcp",
        mcp.resource(&plain.url("")),
    );
    let error = search(&mcp, &authority, &authority).await.unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("its authorization_servers is plain http"),
        "{message}"
    );
    assert_eq!(plain.requests(), [""; 0]);
}
