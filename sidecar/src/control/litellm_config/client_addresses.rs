//! Client addresses: where LiteLLM decides otherwise behind the sidecar than it would without it, by its own
//! `general_settings`, and the setting that ends that.
//!
//! The sidecar has to state the address of a client that states none, since LiteLLM's server would take it for
//! 127.0.0.1. LiteLLM's `get_mcp_client_ip` (1.110.2) then no longer sees that the client stated nothing: without
//! `mcp_trusted_proxy_ranges` it takes whoever states an address for external, and it wants as many addresses as
//! `mcp_xff_num_trusted_hops` says of whoever connects from those ranges. It matters only where a server is hidden from
//! external clients, which LiteLLM knows since its releases of February 2026 (its pull request 20620). `tests/surfaces/addresses.py` compares with LiteLLM's own functions.

use ipnet::IpNet;
use mcp_auth_protocol::sync::{Problem, Route, notices};

use super::error::ConfigError;
use super::named::{MAX_NAMED, listed, shortened};
use super::node::{Budget, Mapping, Node, Pair};
use super::tag_resolution::Kind;

const RANGES: &str = "mcp_trusted_proxy_ranges";
/// LiteLLM replaces such a text by a value of its environment, which is not known here.
const ENVIRONMENT: &str = "os.environ/";

/// What there is to say: of each hidden server to its resource, and of those that no resource manages, as of the pod, to
/// all. `servers` is what LiteLLM will read as `mcp_servers`.
pub fn notices(
    general: Option<&Node>,
    servers: &[Pair],
    routes: &[Route],
    budget: &mut Budget,
) -> Result<Vec<Problem>, ConfigError> {
    let Some(general) = general.and_then(Node::as_mapping) else {
        return Ok(Vec::new());
    };
    let trusts_header = general.get("use_x_forwarded_for", budget)?;
    if !trusts_header.is_some_and(|node| is_known(&node) && !node.is_empty()) {
        return Ok(Vec::new());
    }
    let Some(way_out) = way_out(general, budget)? else {
        return Ok(Vec::new());
    };
    let is_managed = |name: &&str| routes.iter().any(|route| route.server == *name);
    let (managed, others): (Vec<_>, Vec<_>) =
        hidden_servers(servers, budget)?.into_iter().partition(is_managed);
    let (each, together) = match managed.len() {
        0..=MAX_NAMED => (managed, others),
        // The operator keeps few notices of a sidecar.
        _ => (Vec::new(), [managed, others].concat()),
    };
    let of_managed = each
        .into_iter()
        .map(|name| notice(&shortened(name), &way_out).for_server(name));
    let of_pod = (!together.is_empty()).then(|| notice(&listed(&together), &way_out));
    Ok(of_managed.chain(of_pod).collect())
}

fn notice(hidden: &str, way_out: &WayOut) -> Problem {
    let WayOut { because, change } = way_out;
    let message = format!(
        "behind the sidecar LiteLLM since February 2026 counts clients without X-Forwarded-For as external and hides \
         {hidden} from them (available_on_public_internet: false), because general_settings has {because}: {change}"
    );
    Problem::new(notices::CLIENTS_COUNT_AS_EXTERNAL, message)
}

struct WayOut {
    because: String,
    change: &'static str,
}

fn way_out(general: &Mapping, budget: &mut Budget) -> Result<Option<WayOut>, ConfigError> {
    let ranges = general.get(RANGES, budget)?;
    let Some(ranges) = ranges.filter(|ranges| !ranges.is_empty()) else {
        return Ok(Some(WayOut {
            because: format!("use_x_forwarded_for without {RANGES}"),
            change: "set general_settings.mcp_trusted_proxy_ranges to the addresses of the proxies in front of LiteLLM",
        }));
    };
    let hops = general.get("mcp_xff_num_trusted_hops", budget)?;
    let Some(hops) = hops.filter(|hops| is_known(hops) && !hops.is_null() && !is_one(hops)) else {
        return Ok(None);
    };
    let items = ranges.as_sequence().unwrap_or_default();
    if !items.iter().filter_map(|item| item.as_str()).any(is_network) {
        return Ok(None);
    }
    let hops = match &*hops {
        Node::Scalar(scalar) if scalar.kind() == Some(Kind::Int) => format!(": {}", scalar.text),
        _ => String::new(),
    };
    Ok(Some(WayOut {
        because: format!("mcp_xff_num_trusted_hops{hops} and networks in {RANGES}"),
        change: "list there the addresses of the proxies alone, each as a single address, or let those clients go \
                 through the counted proxies",
    }))
}

/// Whether the value stands in the file.
fn is_known(node: &Node) -> bool {
    !node.as_str().is_some_and(|text| text.starts_with(ENVIRONMENT))
}

/// One proxy is what a client that states nothing comes to: its own address, once.
fn is_one(node: &Node) -> bool {
    matches!(node, Node::Scalar(scalar) if scalar.text.trim() == "1")
}

/// Whether more than one address is in it, so that a client may be among them. LiteLLM leaves out what is no network.
fn is_network(range: &str) -> bool {
    let network = range.trim().parse::<IpNet>();
    network.is_ok_and(|network| network.prefix_len() < network.max_prefix_len())
}

/// Those that LiteLLM hides from external clients.
fn hidden_servers<'a>(servers: &'a [Pair], budget: &mut Budget) -> Result<Vec<&'a str>, ConfigError> {
    let mut names = Vec::new();
    for (key, entry) in servers {
        let (Some(name), Some(entry)) = (key.as_str(), entry.as_mapping()) else {
            continue;
        };
        let is_public = entry.get("available_on_public_internet", budget)?;
        if is_public.is_some_and(|node| node.is_empty()) {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    const HIDDEN: &str = "{crm: {available_on_public_internet: false}, open: {}}";

    /// Of servers that no resource manages.
    fn message(general: &str, servers: &str) -> Option<String> {
        let mut told = told(general, servers, &[]);
        assert!(told.len() < 2, "{told:?}");
        told.pop().map(|(server, message)| {
            assert_eq!(server, None);
            message
        })
    }

    /// For which server, and what.
    fn told(general: &str, servers: &str, managed: &[&str]) -> Vec<(Option<String>, String)> {
        let text = format!("general_settings: {general}\nmcp_servers: {servers}");
        let document = parse(&text).unwrap().unwrap();
        let top = document.as_mapping().unwrap();
        let budget = &mut Budget::default();
        let general = top.get("general_settings", budget).unwrap();
        let servers = top.get("mcp_servers", budget).unwrap().unwrap();
        let pairs = servers.as_mapping().unwrap().flatten(budget).unwrap();
        let routes: Vec<Route> = managed.iter().map(|name| route(name)).collect();
        let notices = notices(general.as_deref(), &pairs, &routes, budget).unwrap();
        let told = notices.into_iter().map(|notice| {
            assert_eq!(notice.reason, "ClientsCountAsExternal");
            (notice.server, notice.message)
        });
        told.collect()
    }

    fn route(server: &str) -> Route {
        let route = serde_json::json!({
            "server": server, "url": "https://crm.example.com/mcp", "resource": "crm", "transport": "StreamableHttp",
        });
        serde_json::from_value(route).unwrap()
    }

    #[test]
    fn of_a_server_that_a_resource_manages_its_resource_alone_hears() {
        let servers = "{crm: {available_on_public_internet: false}, open: {}, wiki: {available_on_public_internet: false}}";
        let told = told("{use_x_forwarded_for: true}", servers, &["open", "crm"]);
        let heard: Vec<_> = told.iter().map(|(server, _)| server.as_deref()).collect();
        assert_eq!(heard, [Some("crm"), None]);
        assert!(told[0].1.contains("hides crm from them"), "{told:?}");
        assert!(told[1].1.contains("hides wiki from them"), "{told:?}");
        let names = ["a", "b", "c", "d"];
        let servers = names
            .map(|name| format!("{name}: {{available_on_public_internet: false}}"))
            .join(", ");
        let all = self::told("{use_x_forwarded_for: true}", &format!("{{{servers}}}"), &names);
        assert_eq!(all.len(), 1, "of many at once: {all:?}");
        assert!(all[0].1.contains("hides a, b, c and 1 more from them"), "{all:?}");
    }

    #[test]
    fn a_header_that_is_trusted_from_nobody_in_particular_is_told_with_the_setting_it_needs() {
        for general in [
            "{use_x_forwarded_for: true}",
            "{use_x_forwarded_for: yes, mcp_trusted_proxy_ranges: []}",
            "{use_x_forwarded_for: 'true', mcp_xff_num_trusted_hops: 2}",
        ] {
            let message = message(general, HIDDEN).expect(general);
            assert!(message.contains("hides crm from them"), "{message}");
            assert!(
                message.ends_with("set general_settings.mcp_trusted_proxy_ranges to the addresses of the proxies in front of LiteLLM"),
                "{message}"
            );
        }
    }

    #[test]
    fn more_than_one_proxy_is_told_where_clients_may_have_addresses_of_proxies() {
        for hops in ["2", "0", "many"] {
            let general = format!(
                "{{use_x_forwarded_for: true, mcp_trusted_proxy_ranges: [10.0.0.0/8], mcp_xff_num_trusted_hops: {hops}}}"
            );
            let message = message(&general, HIDDEN).expect(hops);
            assert!(message.contains("each as a single address"), "{message}");
            assert_eq!(
                message.contains("mcp_xff_num_trusted_hops: 2 and"),
                hops == "2",
                "{message}"
            );
            assert!(!message.contains("many"), "{message}");
        }
    }

    #[test]
    fn nothing_is_told_where_litellm_decides_the_same() {
        let ranges = "use_x_forwarded_for: true, mcp_trusted_proxy_ranges";
        for general in [
            "{}".to_owned(),
            "{use_x_forwarded_for: false}".to_owned(),
            "{use_x_forwarded_for: os.environ/TRUST}".to_owned(),
            "{mcp_xff_num_trusted_hops: 2}".to_owned(),
            format!("{{{ranges}: [10.0.0.0/8]}}"),
            format!("{{{ranges}: [10.0.0.0/8], mcp_xff_num_trusted_hops: 1}}"),
            format!("{{{ranges}: [10.0.0.0/8], mcp_xff_num_trusted_hops: os.environ/HOPS}}"),
            format!("{{{ranges}: [10.1.2.3, 10.1.2.4/32, 'fd00::1'], mcp_xff_num_trusted_hops: 2}}"),
        ] {
            assert_eq!(message(&general, HIDDEN), None, "{general}");
        }
        let without_ranges = "{use_x_forwarded_for: true}";
        assert_eq!(
            message(without_ranges, "{open: {available_on_public_internet: true}}"),
            None
        );
    }

    /// The tables are what LiteLLM itself decides (`make surfaces`). Pods with granian or hypercorn, their last column, are left alone by
    /// injection unless they accept it.
    #[test]
    fn every_setting_under_which_uvicorn_decides_otherwise_in_the_document_is_told_and_no_other() {
        let document = include_str!("../../../../docs/client-addresses.md");
        let (_, tables) = document.split_once("<!-- what follows is written by").unwrap();
        let (tables, _) = tables.split_once("<!-- what was written ends here").unwrap();
        let mut found = Vec::new();
        for line in tables.lines() {
            if let Some(settings) = line.strip_prefix("**") {
                let settings = settings.replace(['*', '`'], "");
                let settings = settings
                    .replace("none of the settings", "")
                    .replace("the client", "203.0.113.10");
                found.push((
                    format!("{{{}}}", settings.replace("the proxy", "10.1.2.8/29")),
                    false,
                ));
            } else if line.starts_with("| the proxy |") || line.starts_with("| a stranger |") {
                let of_uvicorn = line.split(" | ").skip(2).take(3);
                found.last_mut().unwrap().1 |= of_uvicorn.into_iter().any(|cell| cell.contains('→'));
            }
        }
        assert_eq!(found.len(), 10, "{found:?}");
        assert_eq!(
            found.iter().filter(|(_, differs)| *differs).count(),
            4,
            "{found:?}"
        );
        for (settings, differs) in found {
            assert_eq!(message(&settings, HIDDEN).is_some(), differs, "{settings}");
        }
    }

    #[test]
    fn of_many_hidden_servers_some_are_named() {
        let servers: Vec<String> = (0..5)
            .map(|number| format!("s{number}: {{available_on_public_internet: no}}"))
            .collect();
        let message = message(
            "{use_x_forwarded_for: true}",
            &format!("{{{}}}", servers.join(", ")),
        )
        .unwrap();
        assert!(
            message.contains("hides s0, s1, s2 and 2 more from them"),
            "{message}"
        );
    }
    #[test]
    fn the_way_out_is_within_what_the_operator_keeps_however_long_the_names_are() {
        let server = |number| {
            format!(
                "{number}{}: {{available_on_public_internet: no}}",
                "é".repeat(150)
            )
        };
        let servers: Vec<String> = (0..250).map(server).collect();
        let hops = "mcp_trusted_proxy_ranges: [10.0.0.0/8], mcp_xff_num_trusted_hops: 2";
        for general in ["", hops] {
            let general = format!("{{use_x_forwarded_for: true, {general}}}");
            let message = message(&general, &format!("{{{}}}", servers.join(", "))).unwrap();
            assert!(
                message.len() <= 512,
                "the operator keeps 512 bytes: {}",
                message.len()
            );
        }
    }
}
