//! What a spec may ask for that this version does not do. It is refused in the status instead of being left out
//! in silence.

use mcp_auth_crds::{ClientAuthenticationMethod, McpServerAuthSpec};

/// The field that asks for something not built yet, as a message.
pub fn unsupported(spec: &McpServerAuthSpec) -> Option<String> {
    let tls = spec.server.tls.as_ref();
    if tls.is_some_and(|tls| tls.client_certificate.is_some()) {
        return Some(say("spec.server.tls.clientCertificate", "leave it out"));
    }
    let oauth2 = spec.oauth2.as_ref()?;
    if oauth2.issuer.is_some() {
        return Some(say("spec.oauth2.issuer", "set spec.oauth2.tokenUrl instead"));
    }
    let method = match oauth2.client_authentication.method {
        ClientAuthenticationMethod::ClientSecretBasic | ClientAuthenticationMethod::ClientSecretPost => {
            return None;
        }
        ClientAuthenticationMethod::PrivateKeyJwt => "PrivateKeyJwt",
        ClientAuthenticationMethod::TlsClientAuth => "TlsClientAuth",
        ClientAuthenticationMethod::WorkloadIdentity => "WorkloadIdentity",
    };
    let field = format!("spec.oauth2.clientAuthentication.method: {method}");
    Some(say(&field, "use ClientSecretBasic or ClientSecretPost"))
}

fn say(field: &str, instead: &str) -> String {
    format!(
        "{field} is not supported yet by mcp-auth {}: {instead}",
        env!("CARGO_PKG_VERSION")
    )
}
