use mcp_auth_crds::McpServerAuth;
use serde_json::{Value, json};

use super::*;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn passed_on(more: Value) -> PassedOn {
    let mut spec = json!({
        "server": {"name": "tools", "url": "https://tools.example.com/mcp"},
        "cookiePassthrough": {"enabled": true, "cookieNames": ["user_id", "session_id"]},
        "headerPassthrough": {"headerNames": ["X-Forwarded-User"]},
    });
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let resource = json!({
        "apiVersion": "mcpauth.dev/v1alpha1", "kind": "McpServerAuth", "metadata": {"name": "tools"}, "spec": spec,
    });
    PassedOn::new(&serde_json::from_value::<McpServerAuth>(resource).unwrap().spec)
}

fn request(method: &str, cookies: &[&str], status: Option<u16>) -> SentRequest {
    SentRequest {
        request: "9c1185a5c5e9fc54".to_owned(),
        server: "tools".to_owned(),
        method: Some(method.to_owned()),
        cookies: names(cookies),
        headers: Vec::new(),
        authorized: true,
        status,
    }
}

impl UserCall {
    /// For tests of what is made of it.
    pub fn that_arrives() -> Self {
        call(3, vec![request("tools/list", &["session_id"], Some(200))])
    }
}

fn call(tools: usize, requests: Vec<SentRequest>) -> UserCall {
    UserCall {
        pod: "litellm-0".to_owned(),
        tools,
        tools_without_user: None,
        passed_on: PassedOn {
            cookies: names(&["session_id"]),
            headers: Vec::new(),
        },
        sent: Sent::Requests(requests),
    }
}

#[test]
fn what_a_user_sends_is_what_the_resource_passes_on_and_a_cookie_that_it_does_not() {
    let value = CheckValue::new([7; 16]);
    let all = passed_on(json!({}));
    let sent = all.as_user(&value);
    assert_eq!(
        sent[COOKIE],
        format!("session_id={value}; user_id={value}; {OTHER_COOKIE}={value}")
    );
    assert_eq!(sent["x-forwarded-user"], value.as_str());
    assert_eq!(
        all.describe(),
        "the allowed cookies session_id, user_id and the allowed header x-forwarded-user"
    );
    let disabled = passed_on(json!({"cookiePassthrough": {"enabled": false, "cookieNames": ["session_id"]}}));
    assert_eq!(disabled.cookies, names(&[]));
    let exchanged = |subject: Value| {
        let exchange = json!({"tokenUrl": "https://a.example.com/t", "clientId": "c",
            "clientAuthentication": {"method": "None"}, "tokenExchange": subject});
        passed_on(json!({"oauth2": exchange}))
    };
    assert_eq!(
        exchanged(json!({"subjectCookie": "user_id"})).cookies,
        names(&["session_id"])
    );
    assert_eq!(
        exchanged(json!({"subjectHeader": "x-forwarded-USER"})).headers,
        names(&[])
    );
}

#[test]
fn only_a_request_with_all_that_is_allowed_and_nothing_else_shows_that_it_arrives() {
    let said = |requests| call(3, requests).arrival();
    let initialize = || request("initialize", &["session_id"], Some(200));
    let (outcome, text) = said(vec![
        initialize(),
        request("tools/list", &["session_id"], Some(200)),
    ]);
    assert_eq!(outcome, Outcome::Passed);
    assert_eq!(
        text,
        "a tools/list through LiteLLM in litellm-0 went to the server with the token and the allowed cookie session_id, and \
         without the other cookie; the server answers 200 (request 9c1185a5c5e9fc54)"
    );
    let without_token = SentRequest {
        authorized: false,
        ..initialize()
    };
    for (requests, outcome, part) in [
        (
            vec![],
            Outcome::Fault,
            "none with the allowed cookie session_id came",
        ),
        (
            vec![
                initialize(),
                request("tools/list", &["mcpauth_check_other", "session_id"], Some(200)),
            ],
            Outcome::Fault,
            "with a cookie that is not allowed",
        ),
        (
            vec![request("tools/list", &["user_id"], Some(200))],
            Outcome::Fault,
            "with the allowed cookie user_id, and not with",
        ),
        (vec![without_token], Outcome::Fault, "without a token"),
        (
            vec![request("initialize", &["session_id"], None)],
            Outcome::Fault,
            "did not answer",
        ),
        (
            vec![request("initialize", &["session_id"], Some(401))],
            Outcome::Warning,
            "answers 401 to the test user",
        ),
    ] {
        let (found, text) = said(requests);
        assert_eq!(found, outcome, "{text}");
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_sidecar_that_cannot_say_shows_nothing() {
    let answer = |status: u16, body: &'static str| {
        let (head, ()) = hyper::Response::builder()
            .status(status)
            .body(())
            .unwrap()
            .into_parts();
        said(&head, &Bytes::from(body))
    };
    assert_eq!(answer(200, r#"{"requests":[]}"#), Sent::Requests(Vec::new()));
    for (status, body, part) in [
        (200, "{}", "does not know"),
        (404, "no /context-check", "earlier version"),
        (403, "", "inside of the pod"),
        (500, "", "answers 500"),
    ] {
        let call = UserCall {
            sent: answer(status, body),
            ..call(3, Vec::new())
        };
        let (outcome, text) = call.arrival();
        assert_eq!(outcome, Outcome::NotChecked, "{text}");
        assert!(text.contains(part), "{part}: {text}");
    }
    let nothing = UserCall {
        sent: Sent::NothingToSend,
        ..call(3, Vec::new())
    };
    assert_eq!(nothing.arrival().0, Outcome::Passed);
}

#[test]
fn a_user_who_is_made_up_and_gets_nothing_speaks_only_against_himself() {
    let listing = |tools, tools_without_user| {
        let call = UserCall {
            tools_without_user,
            ..call(tools, Vec::new())
        };
        call.listing()
    };
    assert_eq!(
        listing(3, None),
        (Outcome::Passed, "LiteLLM lists 3 tools".to_owned())
    );
    assert_eq!(listing(0, Some(3)).0, Outcome::Passed);
    assert_eq!(listing(0, Some(0)).0, Outcome::Fault);
    // By streamable HTTP and by SSE.
    for status in [200, 202] {
        let listed = vec![request("tools/list", &["session_id"], Some(status))];
        let (outcome, _) = call(0, listed).listing();
        assert_eq!(outcome, Outcome::Warning, "{status}: the server may have none");
    }
    for status in [None, Some(401), Some(502)] {
        let failed = vec![request("tools/list", &["session_id"], status)];
        assert_eq!(call(0, failed).listing().0, Outcome::Fault, "{status:?}");
    }
}

#[test]
fn nobody_is_asked_for_where_the_server_has_said_nothing_of_the_user() {
    let asked = |requests| Sent::Requests(requests).may_be_the_user_s();
    let taken = request("initialize", &["session_id"], Some(200));
    let of_list = |status| request("tools/list", &["session_id"], status);
    assert!(!asked(vec![]));
    assert!(
        !asked(vec![taken.clone()]),
        "it is silent when its tools are listed"
    );
    assert!(!asked(vec![taken.clone(), of_list(None)]));
    assert!(asked(vec![taken.clone(), of_list(Some(200))]));
    assert!(asked(vec![taken, of_list(Some(404))]));
    assert!(asked(vec![request("initialize", &["session_id"], Some(401))]));
    assert!(Sent::Unknown("of an earlier version".to_owned()).may_be_the_user_s());
}

#[test]
fn a_refusal_with_403_is_of_the_server_only_where_litellm_names_the_servers() {
    let finding = |method: &'static str, words: &str| {
        let error = McpCallError::Status {
            method,
            status: StatusCode::FORBIDDEN,
            words: words.to_owned(),
        };
        of_server(error, "tools").to_string()
    };
    for words in [
        ": The key is not allowed to access the requested MCP servers: tools",
        ": MCP server 'tools' is not available to this key: the key is bound to agent 'a'",
    ] {
        let message = finding("initialize", words);
        assert!(
            message.starts_with("LiteLLM does not know the server tools, or does not let"),
            "{message}"
        );
        assert!(message.ends_with(words), "{message}");
    }
    for (method, words) in [
        ("initialize", ": Access forbidden: IP address not allowed."),
        (
            "initialize",
            ": Virtual key is not allowed to call this route. Tried to call route: /mcp/",
        ),
        ("initialize", ""),
        (
            "tools/list",
            ": The key is not allowed to access the requested MCP servers: tools",
        ),
    ] {
        let expected = format!("LiteLLM answers {method} with 403 Forbidden{words}");
        assert_eq!(finding(method, words), expected);
    }
}
