//! Administrator policy: what the administrator of the operator allows the authors of resources. Authors may name any Secret of
//! their namespace and any URL; these rules bound where a Secret's value can go. A pure function of the spec.

use mcp_auth_crds::McpServerAuthSpec;
use mcp_auth_oauth::{AllowedAddresses, DestinationError, Destinations};
use mcp_auth_protocol::sync::ServerAddresses;

use crate::effective::EffectiveSettings;
use crate::not_served::{NotServedError, NotServedReason};

/// The default allows everything.
#[derive(Clone, Debug, Default)]
pub struct AdministratorPolicy {
    /// Of requests to authorization servers, which the operator makes: client secrets and assertions go there.
    pub authorization_servers: Destinations,
    /// Of MCP servers, which sidecars call: tokens go there. Their addresses are judged where a URL states one, and by the
    /// sidecar when it connects ([`Self::server_addresses`]).
    pub mcp_servers: Destinations,
}

impl AdministratorPolicy {
    /// The first rule that the spec breaks, with its field and the way out.
    pub fn check(&self, spec: &McpServerAuthSpec) -> Result<(), NotServedError> {
        let server = self.mcp_servers.check_text_of_sidecar(&spec.server.url);
        server.map_err(|error| refusal("spec.server.url", &error, "policy.mcpServers"))?;
        let endpoint = |field, url: &Option<String>| match url {
            Some(url) => allow(
                &self.authorization_servers,
                field,
                url,
                "policy.authorizationServers",
            ),
            None => Ok(()),
        };
        if let Some(oauth2) = &spec.oauth2 {
            match &oauth2.token_url {
                Some(_) => endpoint("spec.oauth2.tokenUrl", &oauth2.token_url)?,
                // Google's, which has a token endpoint for all of its customers.
                None => endpoint(
                    "spec.oauth2.provider",
                    &EffectiveSettings::new(spec, oauth2, None).token_url,
                )?,
            }
            endpoint("spec.oauth2.issuer", &oauth2.issuer)?;
            endpoint("spec.oauth2.revocationUrl", &oauth2.revocation_url)?;
            let exchange = oauth2.token_exchange.as_ref();
            if let Some(provider) = exchange.and_then(|exchange| exchange.identity_provider.as_ref()) {
                endpoint(
                    "spec.oauth2.tokenExchange.identityProvider.issuer",
                    &provider.issuer,
                )?;
                endpoint(
                    "spec.oauth2.tokenExchange.identityProvider.tokenUrl",
                    &provider.token_url,
                )?;
            }
        }
        if let Some(app) = &spec.github_app {
            endpoint("spec.githubApp.apiUrl", &Some(app.api_url.clone()))?;
        }
        let jwks = spec.audit.user.as_ref().and_then(|user| user.jwks.as_ref());
        if let Some(jwks) = jwks {
            match &jwks.url {
                Some(_) => endpoint("spec.audit.user.jwks.url", &jwks.url)?,
                None => endpoint("spec.audit.user.jwks.issuer", &Some(jwks.issuer.clone()))?,
            }
        }
        match &spec.egress_proxy {
            Some(proxy) => self.check_proxy(&proxy.url),
            None => Ok(()),
        }
    }

    /// At which addresses sidecars may connect to the MCP server.
    pub fn server_addresses(&self, spec: &McpServerAuthSpec) -> ServerAddresses {
        match self.mcp_servers.addresses_of_sidecar(&spec.server.url) {
            AllowedAddresses::Any => ServerAddresses::Any,
            AllowedAddresses::NotLoopback => ServerAddresses::NotLoopback,
            AllowedAddresses::Public => ServerAddresses::Public,
        }
    }

    /// A proxy resolves names and connects by itself, and sees what is sent without TLS: where hosts or addresses are
    /// restricted, the proxy has to be a host that is listed.
    fn check_proxy(&self, url: &str) -> Result<(), NotServedError> {
        let field = "spec.egressProxy.url";
        let rules = &self.authorization_servers;
        if rules.hosts.is_empty() && rules.addresses == AllowedAddresses::Public {
            let message = format!(
                "{field}: resources may name no proxy where only public addresses are allowed (policy.addresses), since a \
                 proxy connects to any: ask who runs mcp-auth to set egressProxy, or to list the proxy in \
                 policy.authorizationServers"
            );
            return Err(NotServedError::new(NotServedReason::NotAllowed, message));
        }
        // What the proxy is spoken to by is no matter: requests by TLS go through it unread.
        let rules = Destinations {
            forbid_http: false,
            addresses: match rules.addresses {
                // A listed proxy is inside of the network, as proxies are.
                AllowedAddresses::Public => AllowedAddresses::NotLoopback,
                addresses => addresses,
            },
            hosts: rules.hosts.clone(),
        };
        allow(&rules, field, url, "policy.authorizationServers")
    }
}

fn allow(rules: &Destinations, field: &str, url: &str, hosts_value: &str) -> Result<(), NotServedError> {
    let judged = rules.check_text(url);
    judged.map_err(|error| refusal(field, &error, hosts_value))
}

fn refusal(field: &str, error: &DestinationError, hosts_value: &str) -> NotServedError {
    let way_out = match error {
        DestinationError::Host { .. } => {
            format!("use a listed host, or ask for it to be added to {hosts_value}")
        }
        DestinationError::PlainHttp => "use https, or ask for policy.forbidPlainHttp to be lifted".to_owned(),
        DestinationError::Address(_) => {
            "use another address, or ask for policy.addresses to be changed".to_owned()
        }
        DestinationError::NeverAllowed(_) => {
            "such an address is never connected to, whatever is allowed: use another".to_owned()
        }
    };
    let message = format!("{field}: {error}: {way_out}");
    NotServedError::new(NotServedReason::NotAllowed, message)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(change: impl FnOnce(&mut Value)) -> McpServerAuthSpec {
        let mut spec = json!({
            "server": {"name": "tools", "url": "https://tools.example.com/mcp"},
            "oauth2": {
                "tokenUrl": "https://auth.example.com/token",
                "clientId": "litellm",
                "clientAuthentication": {
                    "method": "ClientSecretBasic",
                    "clientSecretRef": {"name": "oauth", "key": "secret"},
                },
            },
        });
        change(&mut spec);
        serde_json::from_value(spec).unwrap()
    }

    fn policy() -> AdministratorPolicy {
        let destinations = |host: &str| Destinations {
            hosts: [host.parse().unwrap()].into(),
            addresses: AllowedAddresses::NotLoopback,
            forbid_http: true,
        };
        AdministratorPolicy {
            authorization_servers: destinations("*.example.com"),
            mcp_servers: destinations("tools.example.com"),
        }
    }

    fn message(spec: &McpServerAuthSpec) -> String {
        let error = policy().check(spec).unwrap_err();
        assert_eq!(error.reason(), "NotAllowed");
        error.message().to_owned()
    }

    #[test]
    fn what_the_rules_allow_and_an_operator_without_rules_pass() {
        assert_eq!(policy().check(&spec(|_| {})), Ok(()));
        let anywhere = spec(|spec| spec["oauth2"]["tokenUrl"] = json!("http://127.0.0.1:1/token"));
        assert_eq!(AdministratorPolicy::default().check(&anywhere), Ok(()));
    }

    #[test]
    fn each_url_is_judged_and_the_message_names_field_rule_and_way_out() {
        let elsewhere = "https://evil.example.net/";
        for (path, field, way_out) in [
            ("/server/url", "spec.server.url", "policy.mcpServers"),
            (
                "/oauth2/tokenUrl",
                "spec.oauth2.tokenUrl",
                "policy.authorizationServers",
            ),
            (
                "/oauth2/issuer",
                "spec.oauth2.issuer",
                "policy.authorizationServers",
            ),
            (
                "/oauth2/revocationUrl",
                "spec.oauth2.revocationUrl",
                "policy.authorizationServers",
            ),
            (
                "/egressProxy",
                "spec.egressProxy.url",
                "policy.authorizationServers",
            ),
        ] {
            let spec = spec(|spec| match path {
                "/egressProxy" => spec["egressProxy"] = json!({"url": elsewhere}),
                "/oauth2/issuer" | "/oauth2/revocationUrl" => {
                    spec["oauth2"][path.trim_start_matches("/oauth2/")] = json!(elsewhere);
                }
                path => *spec.pointer_mut(path).unwrap() = json!(elsewhere),
            });
            let message = message(&spec);
            assert!(
                message.starts_with(field)
                    && message.contains("evil.example.net")
                    && message.contains(way_out),
                "{message}"
            );
        }
    }

    #[test]
    fn the_api_of_a_github_app_is_judged_too() {
        let app = json!({
            "appId": 1, "installationId": 2, "keyRef": {"name": "github", "key": "key.pem"},
            "apiUrl": "https://evil.example.net/api/v3",
        });
        let message = message(&spec(|spec| {
            spec.as_object_mut().unwrap().remove("oauth2");
            spec["githubApp"] = app;
        }));
        assert!(
            message.starts_with("spec.githubApp.apiUrl") && message.contains("policy.authorizationServers"),
            "{message}"
        );
    }

    #[test]
    fn the_identity_provider_of_an_exchange_is_judged_too() {
        for (name, url) in [
            ("issuer", "https://evil.example.net"),
            ("tokenUrl", "https://evil.example.net/token"),
        ] {
            let message = message(&spec(|spec| {
                spec["oauth2"]["tokenExchange"] = json!({
                    "profile": "IdJag",
                    "subjectCookie": "sid",
                    "audience": "https://auth.example.com",
                    "identityProvider": {name: url},
                });
            }));
            let field = format!("spec.oauth2.tokenExchange.identityProvider.{name}: ");
            assert!(
                message.starts_with(&field)
                    && message.contains("evil.example.net")
                    && message.contains("policy.authorizationServers"),
                "{message}"
            );
        }
    }

    #[test]
    fn the_token_endpoint_that_a_provider_brings_is_judged_too() {
        let google = spec(|spec| {
            spec["oauth2"].as_object_mut().unwrap().remove("tokenUrl");
            spec["oauth2"]["provider"] = json!("Google");
        });
        let message = message(&google);
        assert!(
            message.starts_with("spec.oauth2.provider: ")
                && message.contains("oauth2.googleapis.com")
                && message.contains("policy.authorizationServers"),
            "{message}"
        );
        let mut listed = policy();
        listed.authorization_servers.hosts = ["oauth2.googleapis.com".parse().unwrap()].into();
        assert_eq!(listed.check(&google), Ok(()));
    }

    #[test]
    fn plain_http_and_a_stated_address_have_messages_of_their_own() {
        let plain = message(&spec(|spec| {
            spec["oauth2"]["tokenUrl"] = json!("http://auth.example.com/t")
        }));
        assert!(
            plain.contains("plain http") && plain.contains("policy.forbidPlainHttp"),
            "{plain}"
        );
        let any_host = AdministratorPolicy {
            authorization_servers: Destinations {
                addresses: AllowedAddresses::NotLoopback,
                ..Destinations::default()
            },
            ..AdministratorPolicy::default()
        };
        let loopback = spec(|spec| spec["oauth2"]["tokenUrl"] = json!("https://127.0.0.1/token"));
        let error = any_host.check(&loopback).unwrap_err();
        assert!(
            error.message().contains("loopback") && error.message().contains("policy.addresses"),
            "{}",
            error.message()
        );
    }

    #[test]
    fn an_mcp_server_is_at_no_metadata_service_whatever_the_policy_is_and_may_be_at_loopback() {
        let at = |url: &str| spec(|spec| spec["server"]["url"] = json!(url));
        for (url, word) in [
            ("http://169.254.169.254/latest", "link-local"),
            ("http://100.100.100.200/mcp", "metadata"),
            ("http://0.0.0.0:8000/mcp", "unspecified"),
            ("http://[::]:8000/mcp", "unspecified"),
        ] {
            let error = AdministratorPolicy::default().check(&at(url)).unwrap_err();
            assert_eq!(error.reason(), "NotAllowed");
            let message = error.message();
            assert!(
                message.starts_with("spec.server.url: ")
                    && message.contains(word)
                    && message.contains("never"),
                "{message}"
            );
        }
        let loopback = at("http://127.0.0.1:8000/mcp");
        assert_eq!(AdministratorPolicy::default().check(&loopback), Ok(()));
    }

    #[test]
    fn where_only_public_addresses_are_allowed_an_mcp_server_has_no_name_of_the_cluster_unless_it_is_listed()
    {
        let policy = |addresses, hosts: &[&str]| AdministratorPolicy {
            mcp_servers: Destinations {
                addresses,
                hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
                forbid_http: false,
            },
            ..AdministratorPolicy::default()
        };
        let at = |url: &str| spec(|spec| spec["server"]["url"] = json!(url));
        for host in [
            "mine",
            "mine.ns.svc",
            "mine.ns.svc.",
            "MINE.ns.Svc.cluster.local",
            "mine.ns.svc.company",
            "10-0-0-7.ns.pod.cluster.local",
        ] {
            let server = at(&format!("http://{host}/mcp"));
            let error = policy(AllowedAddresses::Public, &[]).check(&server).unwrap_err();
            assert!(
                error.message().starts_with("spec.server.url: ")
                    && error.message().contains("private")
                    && error.message().contains("policy.addresses"),
                "{}",
                error.message()
            );
            assert_eq!(policy(AllowedAddresses::NotLoopback, &[]).check(&server), Ok(()));
        }
        let service = at("http://mine.ns.svc/mcp");
        assert_eq!(
            policy(AllowedAddresses::Public, &["mine.ns.svc"]).check(&service),
            Ok(())
        );
        let public = at("https://tools.example.com/mcp");
        assert_eq!(policy(AllowedAddresses::Public, &[]).check(&public), Ok(()));
    }

    #[test]
    fn where_only_public_addresses_are_allowed_a_resource_names_no_proxy_that_is_not_listed() {
        let public = |hosts: &[&str]| AdministratorPolicy {
            authorization_servers: Destinations {
                addresses: AllowedAddresses::Public,
                hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
                forbid_http: false,
            },
            ..AdministratorPolicy::default()
        };
        let proxied = spec(|spec| spec["egressProxy"] = json!({"url": "http://10.0.0.7:3128"}));
        assert!(public(&[]).check(&proxied).is_err());
        assert_eq!(public(&["10.0.0.7", "auth.example.com"]).check(&proxied), Ok(()));
    }
}
