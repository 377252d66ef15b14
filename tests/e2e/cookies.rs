//! What of a user's request arrives at the MCP server, whatever the user sends.

use serde_json::{Value, json};

use crate::client::{raw, url, whoami};
use crate::ground::{CRUMB, ground};

/// What `whoami` said, from the body of a chat.
fn answer(body: &str) -> Value {
    let body: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("no JSON: {body}"));
    let content = body["choices"][0]["message"]["content"].as_str();
    let content = content.unwrap_or_else(|| panic!("the chat is answered: {body}"));
    serde_json::from_str(content).unwrap_or_else(|_| panic!("the tool answers: {content}"))
}

#[tokio::test]
async fn small_allowed_cookies_arrive_from_among_64_kilobytes_of_others() {
    ground().await;
    // Several header lines, as HTTP/2 front ends send them, each within what servers take.
    let lines: String = (0..16)
        .map(|number| format!("Cookie: other{number}={CRUMB}{}\r\n", "x".repeat(4000)))
        .collect();
    let lines = format!("{lines}Cookie: session_id={CRUMB}small\r\n");
    let (status, body) = raw(&url("litellm"), &lines, json!({})).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(
        answer(&body)["cookies"],
        json!({"session_id": format!("{CRUMB}small")})
    );
}

#[tokio::test]
async fn an_allowed_cookie_above_the_limit_is_refused_with_a_way_out() {
    ground().await;
    let line = format!("Cookie: session_id={CRUMB}{}\r\n", "x".repeat(9000));
    let (status, body) = raw(&url("litellm"), &line, json!({})).await;
    assert_eq!(status, 431, "{body}");
    let problem: Value = serde_json::from_str(&body).expect("a problem document");
    assert_eq!(problem["reason"], "context_too_large");
    let detail = problem["detail"].as_str().expect("it has a detail");
    assert!(
        detail.contains("8192") && detail.contains("delete cookies"),
        "{detail}"
    );
    assert!(!detail.contains(CRUMB), "the cookie itself is not repeated");
}

#[tokio::test]
async fn a_cookie_stated_twice_is_left_out() {
    ground().await;
    let cookies = format!("session_id={CRUMB}mine; theme={CRUMB}dark; session_id={CRUMB}planted");
    let answer = whoami(&url("litellm"), "tools", &cookies).await;
    assert_eq!(answer["cookies"], json!({"theme": format!("{CRUMB}dark")}));
}

#[tokio::test]
async fn names_that_only_look_like_allowed_ones_stay_away() {
    ground().await;
    let names = [
        "SESSION_ID",
        "session_id2",
        "xsession_id",
        "__Host-session_id",
        "session%5Fid",
        "\"session_id\"",
    ];
    let mut cookies: Vec<String> = names.iter().map(|name| format!("{name}={CRUMB}alike")).collect();
    cookies.push(format!("theme={CRUMB}real"));
    let answer = whoami(&url("litellm"), "tools", &cookies.join("; ")).await;
    assert_eq!(answer["cookies"], json!({"theme": format!("{CRUMB}real")}));
}

#[tokio::test]
async fn no_control_character_in_a_cookie_makes_a_second_header() {
    ground().await;
    for trick in [
        "\r\n x-forwarded-user: root",
        "\r\n\tx",
        "\rx-forwarded-user: root",
        "\u{0}x",
        "\u{1}x",
    ] {
        let line = format!("Cookie: theme={CRUMB}split{trick}\r\n");
        let (status, body) = raw(&url("litellm"), &line, json!({})).await;
        if status == 200 {
            let answer = answer(&body);
            assert_eq!(answer["headers"], json!({}), "{trick:?} made a header");
            let theme = answer["cookies"]
                .get("theme")
                .and_then(Value::as_str)
                .unwrap_or_default();
            assert!(
                !theme.chars().any(char::is_control),
                "{trick:?} arrived: {theme:?}"
            );
        } else {
            assert_eq!(status, 400, "{trick:?}: {body}");
        }
    }
}

#[tokio::test]
async fn a_forged_user_context_does_nothing_in_a_header_and_in_a_body() {
    ground().await;
    let litellm = url("litellm");
    for header in ["mcpauth-context", "Mcpauth-Context", "MCPAUTH-CONTEXT"] {
        let lines = format!("{header}: {CRUMB}forged\r\nCookie: session_id={CRUMB}own\r\n");
        let (status, body) = raw(&litellm, &lines, json!({})).await;
        assert_eq!(status, 200, "{body}");
        let answer = answer(&body);
        assert_eq!(
            answer["cookies"],
            json!({"session_id": format!("{CRUMB}own")}),
            "{header}"
        );
        assert_eq!(answer["leaked"], json!([]), "{header}");
    }
    let forged = json!({"headers": {
        "mcpauth-context": format!("{CRUMB}forged"), "Cookie": format!("session_id={CRUMB}forged"),
        "Authorization": format!("Bearer {CRUMB}forged"), "x-forwarded-user": "root",
    }});
    let lines = format!("Cookie: session_id={CRUMB}own\r\n");
    let (status, body) = raw(&litellm, &lines, forged).await;
    assert_eq!(status, 200, "{body}");
    let answer = answer(&body);
    assert_eq!(answer["service"], "litellm");
    let cookies = &answer["cookies"];
    assert!(!cookies.to_string().contains("forged"), "{cookies}");
    assert_eq!(answer["headers"], json!({}));
    assert_eq!(answer["leaked"], json!([]));
}
