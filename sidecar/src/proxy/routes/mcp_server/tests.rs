use super::*;
use crate::proxy::routes::Routes;
use prometheus_client::registry::Registry;
use secrecy::SecretString;
use std::num::NonZeroUsize;

fn server(url: &str) -> sync::Server {
    sync::Server {
        route: Route {
            resource: "tools-auth".into(),
            server: "tools".into(),
            url: url.into(),
            transport: Transport::StreamableHttp,
            http1_only: false,
            affinity_cookies: Vec::new(),
            answer_timeout_seconds: None,
            ca_bundle: None,
            cookies: vec!["session_id".into()],
            headers: vec!["x-forwarded-user".into()],
            user_context: UserContext::Optional,
            exchange: None,
            credential_identity: String::new(),
            audit: None,
            litellm: None,
        },
        resource_uid: None,
        client_certificate: None,
        egress_proxy: None,
        addresses: None,
        declined: None,
        credential: sync::Credential::Bearer {
            id: String::new(),
            token: "t0p-s3cret".into(),
            proof_key: None,
            expires_at: None,
        },
    }
}

fn routes() -> Routes {
    Routes::new(
        NonZeroUsize::MIN,
        Metrics::new(&mut Registry::default()),
        tokio::sync::watch::Sender::default(),
    )
}

fn target(routes: &Routes, name: &str) -> Arc<Target> {
    routes
        .table()
        .server(name)
        .unwrap()
        .usable()
        .unwrap()
        .target
        .clone()
}

fn problem_of(server: sync::Server) -> Problem {
    let routes = routes();
    let mut sound = self::server("http://127.0.0.1:1/mcp");
    sound.route.server = "sound".into();
    let problems = routes.apply(&[sound, server]);
    assert!(
        routes.table().server("sound").unwrap().usable().is_some(),
        "others are not affected"
    );
    let [problem] = problems.try_into().unwrap();
    problem
}

#[test]
fn connections_survive_unless_origin_or_ca_change() {
    let routes = routes();
    routes.apply(&[server("https://tools.example.com/mcp")]);
    let first = target(&routes, "tools");
    let mut renewed = server("https://tools.example.com:443/other");
    renewed.credential = sync::Credential::Bearer {
        id: String::new(),
        token: "new".into(),
        proof_key: None,
        expires_at: Some(1),
    };
    routes.apply(&[renewed]);
    assert!(Arc::ptr_eq(&first, &target(&routes, "tools")));
    routes.apply(&[server("https://tools.example.org/mcp")]);
    assert!(!Arc::ptr_eq(&first, &target(&routes, "tools")));
    routes.apply(&[]);
    assert!(routes.table().server("tools").is_none());
}

fn proxied(password: &str) -> sync::Server {
    let mut server = server("https://tools.example.com/mcp");
    server.egress_proxy = Some(EgressProxy {
        url: "http://proxy.example.com:3128/".into(),
        authorization: Some(SecretString::from(format!("Basic {password}"))),
    });
    server
}

#[test]
fn a_proxy_and_its_password_are_part_of_what_a_connection_is_of() {
    let routes = routes();
    routes.apply(&[server("https://tools.example.com/mcp")]);
    let direct = target(&routes, "tools");
    routes.apply(&[proxied("one")]);
    let by_proxy = target(&routes, "tools");
    assert!(!Arc::ptr_eq(&direct, &by_proxy));
    routes.apply(&[proxied("one")]);
    assert!(Arc::ptr_eq(&by_proxy, &target(&routes, "tools")));
    routes.apply(&[proxied("two")]);
    assert!(!Arc::ptr_eq(&by_proxy, &target(&routes, "tools")));
}

#[test]
fn an_operator_that_knows_no_token_yet_leads_no_call_past_the_proxy() {
    let routes = routes();
    routes.apply(&[proxied("one")]);
    let by_proxy = target(&routes, "tools");
    let mut unknown = server("https://tools.example.com/mcp");
    unknown.credential = sync::Credential::Unavailable {
        reason: "Pending".into(),
        message: String::new(),
        keep: true,
    };
    routes.apply(&[unknown]);
    assert!(Arc::ptr_eq(&by_proxy, &target(&routes, "tools")));
}

#[test]
fn a_proxy_that_is_none_is_a_problem_of_that_server_alone_and_is_not_gone_past() {
    for url in ["", "proxy:3128", "socks5://proxy.example.com:1080", "http://"] {
        let mut server = proxied("s3cret");
        server.egress_proxy.as_mut().unwrap().url = url.into();
        let problem = problem_of(server);
        assert_eq!(problem.reason, "InvalidEgressProxy", "{url}");
        assert!(!problem.message.contains("s3cret"), "{}", problem.message);
    }
}

#[test]
fn the_union_of_allowed_names_follows_the_servers() {
    let routes = routes();
    let mut other = server("http://127.0.0.1:1/mcp");
    (other.route.server, other.route.cookies) = ("other".into(), vec!["csrf".into()]);
    routes.apply(&[server("http://127.0.0.1:1/mcp"), other.clone()]);
    assert!(routes.table().allowed().cookie(b"csrf") && routes.table().allowed().cookie(b"session_id"));
    routes.apply(&[other]);
    assert!(!routes.table().allowed().cookie(b"session_id"));
}

#[test]
fn a_url_that_cannot_be_used_is_a_problem_of_that_server_alone() {
    for url in [
        "",
        "tools",
        "ftp://x/",
        "https://u:p@x/mcp",
        "https://x/mcp#f",
        "http://",
        "https://[::1",
    ] {
        assert_eq!(problem_of(server(url)).reason, "InvalidUrl", "{url}");
    }
}

#[test]
fn a_ca_bundle_that_cannot_be_used_is_a_problem() {
    let mut server = server("https://tools.example.com/mcp");
    server.route.ca_bundle = Some("no pem".into());
    let expected = "McpServerAuth tools-auth: the CA bundle holds no certificate";
    assert_eq!(
        problem_of(server),
        Problem {
            reason: "InvalidCaBundle".into(),
            message: expected.into(),
            server: Some("tools".to_owned())
        }
    );
}

#[test]
fn an_authority_that_is_left_out_is_told_by_its_place_and_key() {
    let usable = rcgen::generate_simple_self_signed(vec!["ca".to_owned()]).unwrap();
    let mut server = server("https://tools.example.com/mcp");
    let bundle = format!("{}{}", usable.cert.pem(), crate::http::tls::P521_AUTHORITY);
    server.route.ca_bundle = Some(bundle);
    let routes = routes();
    assert_eq!(routes.apply(&[server]), []);
    let notices = routes.notices();
    let [notice] = &notices[..] else {
        panic!("{notices:?}")
    };
    assert_eq!(
        (notice.reason.as_str(), notice.server.as_deref()),
        ("AuthorityUnusable", Some("tools"))
    );
    for part in [
        "certificate 2 ",
        "P-521",
        "spec.server.tls.caBundle",
        "tools-auth",
    ] {
        assert!(notice.message.contains(part), "{}", notice.message);
    }
}

#[test]
fn a_token_that_no_header_can_carry_is_a_problem_that_does_not_show_it() {
    for token in ["", "a b", "s3cret\r\nx: y", "s3cret\u{e9}"] {
        let mut server = server("https://tools.example.com/mcp");
        server.credential = sync::Credential::Bearer {
            id: String::new(),
            token: token.into(),
            proof_key: None,
            expires_at: None,
        };
        let problem = problem_of(server);
        assert_eq!(problem.reason, "InvalidToken");
        assert!(!problem.message.contains("s3cret"));
    }
}

#[test]
fn credentials_and_names_of_the_sidecar_are_never_passed_on() {
    let others = [
        "Authorization",
        "Mcpauth-Context",
        "mcp-session-id",
        "Content-Type",
        "x y",
        "",
    ];
    for name in others.into_iter().chain(DENIED_HEADERS) {
        let mut server = server("https://tools.example.com/mcp");
        server.route.headers = vec![name.into()];
        assert_eq!(problem_of(server).reason, "InvalidHeaderName", "{name}");
    }
    let mut server = server("https://tools.example.com/mcp");
    server.route.cookies = vec!["token".into()];
    assert_eq!(problem_of(server).reason, "InvalidCookieName");
}

#[test]
fn the_outbound_path_is_that_of_the_url_below_the_server() {
    let path = |url: &str| outbound_path(&server(url).route);
    assert_eq!(path("https://x"), Some("/tools/".into()));
    assert_eq!(path("https://x/a/mcp/?key=1"), Some("/tools/a/mcp/?key=1".into()));
    assert_eq!(path("nothing"), None);
}

#[test]
fn a_token_in_use_outlives_an_operator_that_does_not_know_it_but_not_a_changed_url() {
    let routes = routes();
    let mut tools = server("https://tools.example.com/mcp");
    routes.apply(&[tools.clone()]);
    let has_token = |routes: &Routes| {
        let table = routes.table();
        let usable = table.server("tools").unwrap().usable().unwrap();
        usable.token().is_some()
    };
    let unavailable = |keep| sync::Credential::Unavailable {
        reason: "Pending".into(),
        message: String::new(),
        keep,
    };
    tools.credential = unavailable(true);
    routes.apply(&[tools.clone()]);
    assert!(has_token(&routes));
    tools.route.url = "https://elsewhere.example.com/mcp".into();
    routes.apply(&[tools.clone()]);
    assert!(!has_token(&routes), "never for another URL");

    let tools = server("https://tools.example.com/mcp");
    routes.apply(std::slice::from_ref(&tools));
    let withdrawn = sync::Server {
        credential: unavailable(false),
        ..tools
    };
    routes.apply(&[withdrawn]);
    assert!(!has_token(&routes), "withdrawn means withdrawn");
}

#[test]
fn a_token_does_not_serve_on_for_a_resource_that_was_created_anew() {
    let of = |uid: Option<&str>, knows_token: bool| {
        let mut server = server("https://tools.example.com/mcp");
        server.resource_uid = uid.map(str::to_owned);
        if !knows_token {
            server.credential = sync::Credential::Unavailable {
                reason: "Pending".into(),
                message: String::new(),
                keep: true,
            };
        }
        server
    };
    let has_token = |routes: &Routes| {
        let table = routes.table();
        let usable = table.server("tools").unwrap().usable();
        usable.unwrap().token().is_some()
    };
    let routes = routes();
    routes.apply(&[of(Some("1"), true)]);
    // Of an operator that was restarted, and of one that is of before uids were told.
    for same in [of(Some("1"), false), of(None, false), of(Some("1"), false)] {
        routes.apply(&[same]);
        assert!(has_token(&routes));
    }
    routes.apply(&[of(Some("2"), false)]);
    assert!(!has_token(&routes));
    routes.apply(&[of(Some("2"), true)]);
    assert!(has_token(&routes));
}

#[test]
fn with_a_token_that_is_kept_the_server_is_verified_as_before() {
    let authority = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        (
            params.self_signed(&key).unwrap().pem(),
            SecretString::from(key.serialize_pem()),
        )
    };
    let routes = routes();
    let (pem, key) = authority("one");
    let mut tools = server("https://tools.example.com/mcp");
    tools.route.ca_bundle = Some(pem.clone());
    tools.client_certificate = Some(ClientCertificate { chain: pem, key });
    routes.apply(&[tools.clone()]);
    let first = target(&routes, "tools");

    let restarted = |url: &str| {
        let mut restarted = server(url);
        restarted.credential = sync::Credential::Unavailable {
            reason: "Pending".into(),
            message: String::new(),
            keep: true,
        };
        restarted
    };
    for _ in 0..2 {
        routes.apply(&[restarted("https://tools.example.com/mcp")]);
        assert!(Arc::ptr_eq(&first, &target(&routes, "tools")));
    }
    routes.apply(&[tools.clone()]);
    assert!(
        Arc::ptr_eq(&first, &target(&routes, "tools")),
        "nothing has changed"
    );

    let mut other = restarted("https://tools.example.com/mcp");
    other.route.ca_bundle = Some(authority("other").0);
    routes.apply(&[other]);
    assert!(
        !Arc::ptr_eq(&first, &target(&routes, "tools")),
        "what is stated counts"
    );

    routes.apply(&[tools.clone()]);
    let first = target(&routes, "tools");
    routes.apply(&[restarted("https://tools.example.com/elsewhere")]);
    assert!(!Arc::ptr_eq(&first, &target(&routes, "tools")));

    routes.apply(&[tools]);
    let first = target(&routes, "tools");
    routes.apply(&[server("https://tools.example.com/mcp")]);
    assert!(
        !Arc::ptr_eq(&first, &target(&routes, "tools")),
        "with a token, none is none"
    );
}
