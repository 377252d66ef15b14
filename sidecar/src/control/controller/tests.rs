use std::cell::RefCell;
use std::fs;
use std::rc::Rc;

use mcp_auth_protocol::sync::{Transport, UserContext};

use super::*;
use crate::control::litellm::NotReady;
use crate::control::outbound_secret::OutboundSecret;

#[derive(Clone, Default)]
struct Applied(
    Rc<RefCell<Vec<Vec<Server>>>>,
    Rc<RefCell<BTreeMap<String, String>>>,
    Rc<RefCell<BTreeSet<String>>>,
);

impl DataPath for Applied {
    fn set_aliases(&self, aliases: BTreeMap<String, String>) {
        *self.1.borrow_mut() = aliases;
    }

    fn set_access_groups(&self, access_groups: BTreeSet<String>) {
        *self.2.borrow_mut() = access_groups;
    }

    fn apply(&self, servers: &[Server]) -> Vec<Problem> {
        self.0.borrow_mut().push(servers.to_vec());
        let unusable = servers.iter().filter(|server| server.route.server == "unusable");
        let problem = |_| Problem {
            reason: "InvalidCaBundle".into(),
            message: "unusable".into(),
            server: None,
        };
        unusable.map(problem).collect()
    }

    fn set_fingerprint_key(&self, _: &SecretString) {}

    fn reachability(&self) -> Vec<ServerReachability> {
        Vec::new()
    }

    fn notices(&self) -> Vec<Problem> {
        Vec::new()
    }
}

struct Pod {
    folder: tempfile::TempDir,
    applied: Applied,
    reports: watch::Receiver<Report>,
    control: Controller<Applied>,
}

fn route(server: &str) -> Route {
    Route {
        resource: server.into(),
        server: server.into(),
        url: format!("https://{server}.example.com/mcp"),
        transport: Transport::StreamableHttp,
        http1_only: false,
        affinity_cookies: Vec::new(),
        answer_timeout_seconds: None,
        ca_bundle: None,
        cookies: vec![],
        headers: vec![],
        user_context: UserContext::Optional,
        exchange: None,
        credential_identity: String::new(),
        audit: None,
        litellm: None,
    }
}

fn snapshot(servers: &[(&str, bool)]) -> Snapshot {
    let server = |&(name, bearer): &(&str, bool)| Server {
        route: route(name),
        resource_uid: None,
        client_certificate: None,
        egress_proxy: None,
        addresses: None,
        declined: None,
        credential: if bearer {
            Credential::Bearer {
                id: String::new(),
                token: "t".into(),
                proof_key: None,
                expires_at: None,
            }
        } else {
            Credential::Unavailable {
                reason: "Pending".into(),
                message: "no".into(),
                keep: false,
            }
        },
    };
    Snapshot {
        revision: "1".into(),
        operator_ca: String::new(),
        fingerprint_key: None,
        servers: servers.iter().map(server).collect(),
        sent_at: None,
        capabilities: Vec::new(),
        unreadable: vec![],
    }
}

fn control(
    folder: &std::path::Path,
    applied: Applied,
    reports: watch::Sender<Report>,
) -> Controller<Applied> {
    let settings = ControlSettings {
        original: Some(folder.join("config.yaml")),
        overlay: folder.join("overlay.yaml"),
        mirror: None,
        outbound: "127.0.0.1:16481".parse().unwrap(),
        outbound_secret: OutboundSecret::generate(),
        inbound: true,
        auth_blocks: false,
        static_headers: StaticHeaders::resume(folder),
        tool_prefix_separator: "-".into(),
    };
    Controller::new(settings, vec![route("a")], applied, reports, Metrics::default())
}

fn pod() -> Pod {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("config.yaml"),
        "mcp_servers: {other: {url: http://o}}",
    )
    .unwrap();
    let applied = Applied::default();
    let sender = watch::Sender::new(Report::default());
    let reports = sender.subscribe();
    Pod {
        control: control(folder.path(), applied.clone(), sender),
        folder,
        applied,
        reports,
    }
}

impl Pod {
    fn overlay(&self) -> String {
        fs::read_to_string(self.folder.path().join("overlay.yaml")).unwrap()
    }

    fn report(&self) -> Report {
        self.reports.borrow().clone()
    }
}

const READY: ProbeResult = ProbeResult::Listening {
    listener: 7,
    exposed: None,
};

#[test]
fn routes_of_the_admission_answer_with_an_error_until_credentials_come() {
    let mut pod = pod();
    let applied = pod.applied.0.borrow()[0].clone();
    assert_eq!(applied[0].route, route("a"));
    assert!(matches!(&applied[0].credential, Credential::Unavailable { reason, .. } if reason == "Pending"));
    assert!(!pod.control.are_tokens_settled());
    pod.control.take_over(snapshot(&[("a", true), ("b", false)]));
    assert!(!pod.control.are_tokens_settled());
    pod.control.take_over(snapshot(&[("a", true), ("b", true)]));
    assert!(pod.control.are_tokens_settled());
    assert!(
        !pod.folder.path().join("overlay.yaml").exists(),
        "LiteLLM's start is not released by a snapshot"
    );
}

#[test]
fn a_resource_that_is_wrong_holds_up_no_start() {
    let mut pod = pod();
    let mut wrong = snapshot(&[("a", true), ("b", false)]);
    pod.control.take_over(wrong.clone());
    assert!(!pod.control.are_tokens_settled());
    let Credential::Unavailable { reason, .. } = &mut wrong.servers[1].credential else {
        panic!("b has no token")
    };
    *reason = "SecretNotFound".into();
    pod.control.take_over(wrong);
    assert!(pod.control.are_tokens_settled());
}

#[test]
fn a_later_snapshot_is_rendered_and_needs_a_restart() {
    let mut pod = pod();
    assert!(pod.control.render());
    assert!(pod.overlay().contains("/a/mcp") && pod.overlay().contains("other"));
    pod.control.observe(&READY);
    pod.control.take_over(snapshot(&[("a", true), ("b", true)]));
    assert!(pod.overlay().contains("/b/mcp"));
    assert_eq!(pod.report().restart_needed_for, ["b"]);

    // The sidecar alone starts again.
    let sender = watch::Sender::new(Report::default());
    pod.reports = sender.subscribe();
    pod.control = control(pod.folder.path(), Applied::default(), sender);
    pod.control.take_over(snapshot(&[("a", true), ("b", true)]));
    pod.control.render();
    pod.control.observe(&READY);
    assert_eq!(pod.report().restart_needed_for, ["b"]);

    pod.control.observe(&ProbeResult::Listening {
        listener: 8,
        exposed: None,
    });
    assert!(pod.report().restart_needed_for.is_empty());
}

#[test]
fn the_data_path_learns_what_litellm_calls_the_servers() {
    let mut pod = pod();
    let config = "mcp_servers: {a: {url: 'http://a', alias: search, access_groups: [staff]}, other: {url: 'http://o', \
                  alias: others, access_groups: [guests]}}";
    fs::write(pod.folder.path().join("config.yaml"), config).unwrap();
    pod.control.render();
    let aliases = BTreeMap::from([("search".to_owned(), "a".to_owned())]);
    assert_eq!(*pod.applied.1.borrow(), aliases);
    assert_eq!(*pod.applied.2.borrow(), BTreeSet::from(["staff".to_owned()]));
}

#[test]
fn problems_come_and_go_with_their_cause() {
    let mut pod = pod();
    fs::write(pod.folder.path().join("config.yaml"), "mcp_servers: [").unwrap();
    assert!(pod.control.render(), "LiteLLM starts all the same");
    assert_eq!(pod.overlay(), "{}\n");
    assert_eq!(pod.report().problems[0].reason, "ConfigNotYaml");
    fs::write(pod.folder.path().join("config.yaml"), "{}").unwrap();
    pod.control.render();
    assert!(pod.report().problems.is_empty());

    let why = NotReady {
        reason: "UndeclaredListener",
        message: "0.0.0.0:19131".into(),
    };
    pod.control.observe(&ProbeResult::Down(why));
    assert_eq!(pod.report().problems[0].reason, "UndeclaredListener");
    pod.control.observe(&ProbeResult::Listening {
        listener: 7,
        exposed: Some(16480),
    });
    assert_eq!(pod.report().problems[0].reason, "LiteLlmExposed");
    pod.control.observe(&READY);
    assert!(pod.report().problems.is_empty());
}

#[test]
fn an_overlay_that_cannot_be_written_is_tried_again() {
    let mut pod = pod();
    let folder = pod.folder.path().join("overlay.yaml");
    fs::create_dir(&folder).unwrap();
    assert!(!pod.control.render());
    assert_eq!(pod.report().problems[0].reason, "OverlayNotWritable");
    fs::remove_dir(&folder).unwrap();
    assert!(pod.control.render());
    assert!(pod.report().problems.is_empty());
}

#[test]
fn a_server_that_only_a_newer_sidecar_understands_is_reported_and_the_others_serve() {
    let mut pod = pod();
    let mut newer = snapshot(&[("a", true)]);
    newer.unreadable = vec![UnreadableServer {
        server: Some("b".into()),
        part: UnreadablePart::Route,
    }];
    pod.control.take_over(newer);
    let problem = pod.report().problems.remove(0);
    assert_eq!(
        (problem.reason.as_str(), problem.server.as_deref()),
        ("SidecarTooOld", Some("b"))
    );
    assert!(problem.message.contains("restart the pod"), "{}", problem.message);

    pod.control.take_over(snapshot(&[("a", true), ("b", true)]));
    assert!(pod.report().problems.is_empty());
}
