use super::*;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn filtered(chunks: &[&[u8]]) -> Vec<u8> {
    filtered_for(&[], chunks)
}

fn filtered_for(servers: &[&str], chunks: &[&[u8]]) -> Vec<u8> {
    let mut filter = KeyFilter::new(ServerNames::new(servers.iter().copied()));
    let mut out = Vec::new();
    for chunk in chunks {
        let (before, after) = filter.pass(Bytes::copy_from_slice(chunk));
        out.extend(before);
        out.extend_from_slice(&after);
    }
    out.extend(filter.finish());
    out
}

fn text(input: &str) -> String {
    String::from_utf8(filtered(&[input.as_bytes()])).unwrap()
}

#[test]
fn a_key_is_renamed_wherever_it_stands_and_in_whatever_case() {
    let input =
        r#"{"tools":[{"headers":{"mcpauth-context":"x", "MCPAuth-Context" : 1}}],"MCPAUTH-CONTEXT":[]}"#;
    let expected =
        r#"{"tools":[{"headers":{"mcpauth-contex_":"x", "MCPAuth-Contex_" : 1}}],"MCPAUTH-CONTEX_":[]}"#;
    assert_eq!(text(input), expected);
}

#[test]
fn a_body_of_one_chunk_is_treated_like_any_other() {
    for input in [
        "",
        "{\"a-b\":1}",
        "{\"mcpauth-context\":1}",
        "{\"MCPAUTH-CONTEXT\":1}",
        r#"{"\u006dcpauth\u002dcontext":1}"#,
        "{\"mcpauth-contexts\":\"mcpauth-context\"}",
        "{\"X-MCP-tools-a\":1}",
        "{\"mcp_auth_header\":1}",
        "-",
        "_",
    ] {
        let mut filter = KeyFilter::new(ServerNames::new(["tools"]));
        let (before, chunk) = filter.pass_last(Bytes::copy_from_slice(input.as_bytes()));
        let mut out: Vec<u8> = before.into_iter().chain(chunk).collect();
        out.extend(filter.finish());
        let expected = filtered_for(&["tools"], &[input.as_bytes()]);
        assert_eq!(out, expected, "{input}");
    }
}

#[test]
fn the_last_chunk_ends_a_key_that_an_earlier_one_began() {
    let mut filter = KeyFilter::default();
    let (_, first) = filter.pass(Bytes::from_static(b"{\"mcpauth-con"));
    let (_, last) = filter.pass_last(Bytes::from_static(b"text\":1}"));
    assert_eq!([first, last].concat(), b"{\"mcpauth-contex_\":1}");
}

#[test]
fn escapes_do_not_hide_a_key() {
    assert_eq!(
        text(r#"{"\u006dcpauth-contex\u0074":1}"#),
        r#"{"\u006dcpauth-contex\u007f":1}"#
    );
    assert_eq!(
        text(r#"{"\u004DCPAUTH\u002dcontex\u0054":1}"#),
        r#"{"\u004DCPAUTH\u002dcontex\u005f":1}"#
    );
}

#[test]
fn values_and_longer_or_shorter_keys_stay() {
    for input in [
        concat!(
            r#"{"a":"mcpauth-context","b":["mcpauth-context","mcpauth-context","#,
            r#"{"c":"\"mcpauth-context\":"}]}"#
        ),
        r#"{"mcpauth-contexts":1,"xmcpauth-context":2,"mcpauth-contex":3,"mcpauth-context ":4,"":5}"#,
        r#"{"mcpauth-context\u0020":1,"mcpauth-context\"":2,"\\mcpauth-context":3,"mcpauth\/context":4}"#,
        r#"["mcpauth-context"]"#,
        r#""mcpauth-context""#,
        r#"say "mcpauth-context": I am no JSON"#,
        "{\"mcpauth-context",
    ] {
        assert_eq!(text(input), input);
    }
}

#[test]
fn the_name_for_one_server_is_renamed_too() {
    for (input, expected) in [
        (
            r#"{"x-mcp-tools-mcpauth-context":1}"#,
            r#"{"x-mcp-tools-mcpauth-contex_":1}"#,
        ),
        (
            r#"{"X-MCP-mcpmcpauth-cont-MCPAUTH-contex\u0074":1}"#,
            r#"{"X-MCP-mcpmcpauth-cont-MCPAUTH-contex\u007f":1}"#,
        ),
        (
            r#"{"x-mcp-t\n\"\u00e9-mcpauth-context":1}"#,
            r#"{"x-mcp-t\n\"\u00e9-mcpauth-contex_":1}"#,
        ),
        (
            r#"{"x-mcp-t-mcpauth-context-mcpauth-context":1}"#,
            r#"{"x-mcp-t-mcpauth-context-mcpauth-contex_":1}"#,
        ),
    ] {
        assert_eq!(text(input), expected);
    }
    for input in [
        r#"{"x-mcp-tools-mcpauth-contexts":1,"x-mcp":2,"x-mcp-":3,"x-mc-mcpauth-context":4,"x-mcp-a":5}"#,
        r#"{"a":"x-mcp-tools-mcpauth-context"}"#,
        r#"{"x-mcp-tools-mcpauth-context\n":1,"x-mcp-tools-mcpauth\/-context":2}"#,
    ] {
        assert_eq!(text(input), input);
    }
}

#[test]
fn headers_for_servers_of_ours_go_to_no_server_of_ours() {
    let servers = ["tools", "tools_x", "Other", "with-hyphen", ""];
    for (input, expected) in [
        (r#"{"x-mcp-tools-tenant-id":1}"#, r#"{"x-mcp-tools_tenant-id":1}"#),
        (
            r#"{"x-mcp-tools-a":{"X-MCP-OTHER-b":2}}"#,
            r#"{"x-mcp-tools_a":{"X-MCP-OTHER_b":2}}"#,
        ),
        (r#"{"x-mcp-tools_x-a":1}"#, r#"{"x-mcp-tools_x_a":1}"#),
        // What becomes of the first would be for the second.
        (r#"{"x-mcp-tools-x-a":1}"#, r#"{"x-mcp-tools_x_a":1}"#),
        (
            r#"{"x-mcp-t\u006fols\u002da":1,"\u0058-mcp-tools\u002Da":1}"#,
            r#"{"x-mcp-t\u006fols\u002ea":1,"\u0058-mcp-tools\u002Ea":1}"#,
        ),
    ] {
        let text = filtered_for(&servers, &[input.as_bytes()]);
        assert_eq!(String::from_utf8(text).unwrap(), expected);
        for cut in 0..=input.len() {
            let (before, after) = input.as_bytes().split_at(cut);
            let text = filtered_for(&servers, &[before, after]);
            assert_eq!(String::from_utf8(text).unwrap(), expected, "cut at {cut}");
        }
    }
    for input in [
        r#"{"x-mcp-tool-a":1,"x-mcp-toolsx-a":2,"x-mcp-tools":3,"x-mcp-a-tools-b":4,"x-mcp-with-hyphen-a":5}"#,
        r#"{"x-mcp--a":1,"x-mcp-\u00e9-a":2,"a":"x-mcp-tools-a","x-mcp-servers":"tools","tools-a":3}"#,
        r#"{"y-mcp-tools-a":1,"x-mcp_tools-a":2}"#,
    ] {
        let text = filtered_for(&servers, &[input.as_bytes()]);
        assert_eq!(String::from_utf8(text).unwrap(), input);
    }
}

/// LiteLLM takes the keys of `tools[].headers` in lower case by Python's rules, and its configuration may call a server anything.
#[test]
fn a_name_in_other_letters_that_litellm_reads_as_the_servers_is_the_servers() {
    let servers = [
        "desk_k",
        "Caf\u{c9}",
        "stra\u{df}e",
        "staff\u{1f680}",
        "\u{10400}",
        "\u{39f}\u{394}\u{39f}\u{3a3}",
        "a/b\\",
    ];
    for (input, expected) in [
        ("{\"x-mcp-des\u{212a}_k-a\":1}", "{\"x-mcp-des\u{212a}_k_a\":1}"),
        (
            r#"{"x-mcp-des\u212A_\u212a-a":1}"#,
            r#"{"x-mcp-des\u212A_\u212a_a":1}"#,
        ),
        ("{\"x-mcp-caf\u{e9}-a\":1}", "{\"x-mcp-caf\u{e9}_a\":1}"),
        ("{\"x-mcp-CAF\u{c9}-a\":1}", "{\"x-mcp-CAF\u{c9}_a\":1}"),
        (r#"{"x-mcp-caf\u00e9-a":1}"#, r#"{"x-mcp-caf\u00e9_a":1}"#),
        ("{\"x-mcp-stra\u{1e9e}e-a\":1}", "{\"x-mcp-stra\u{1e9e}e_a\":1}"),
        // Beyond the Basic Multilingual Plane an escape is half of a character, which may be a capital too.
        (
            r#"{"x-mcp-staff\ud83d\uDE80-a":1}"#,
            r#"{"x-mcp-staff\ud83d\uDE80_a":1}"#,
        ),
        ("{\"x-mcp-staff\u{1f680}-a\":1}", "{\"x-mcp-staff\u{1f680}_a\":1}"),
        (r#"{"x-mcp-\ud801\udc00-a":1}"#, r#"{"x-mcp-\ud801\udc00_a":1}"#),
        (r#"{"x-mcp-\ud801\udc28-a":1}"#, r#"{"x-mcp-\ud801\udc28_a":1}"#),
        // A sigma ends the word.
        (
            "{\"x-mcp-\u{39f}\u{394}\u{39f}\u{3a3}-a\":1}",
            "{\"x-mcp-\u{39f}\u{394}\u{39f}\u{3a3}_a\":1}",
        ),
        (
            "{\"x-mcp-\u{3bf}\u{3b4}\u{3bf}\u{3c2}-a\":1}",
            "{\"x-mcp-\u{3bf}\u{3b4}\u{3bf}\u{3c2}_a\":1}",
        ),
        (r#"{"x-mcp-A\/b\\-a":1}"#, r#"{"x-mcp-A\/b\\_a":1}"#),
    ] {
        for cut in 0..=input.len() {
            let (before, after) = input.as_bytes().split_at(cut);
            let text = filtered_for(&servers, &[before, after]);
            assert_eq!(String::from_utf8(text).unwrap(), expected, "cut at {cut}");
        }
    }
    for input in [
        "{\"x-mcp-des\u{212b}_k-a\":1,\"x-mcp-caf\u{e8}-a\":2,\"x-mcp-des\u{1f600}k-a\":3}",
        r#"{"x-mcp-des\u00e2\u0084\u00aa_k-a":1,"x-mcp-caf\u00c3\u00a9-a":2,"x-mcp-des\ud83d\ude00-a":3}"#,
        r#"{"x-mcp-staff\ud83d-a":1,"x-mcp-staff\ude80-a":2,"x-mcp-staff\ude80\ud83d-a":3,"x-mcp-staff\ud83d\ud83d\ude80-a":4}"#,
        r#"{"x-mcp-staff\ud83dx-a":1,"x-mcp-staff\ud83d\u0041-a":2,"x-mcp-a\nb-a":3}"#,
    ] {
        let text = filtered_for(&servers, &[input.as_bytes()]);
        assert_eq!(String::from_utf8(text).unwrap(), input);
    }
}

/// The members are the arguments of LiteLLM's own function.
#[test]
fn members_that_hold_headers_for_servers_are_renamed() {
    for (input, expected) in [
        (
            r#"{"mcp_server_auth_headers":{"tools":{"x-tenant":"a"}},"mcp_auth_header":{"a":1}}"#,
            r#"{"mcp_server_auth_header_":{"tools":{"x-tenant":"a"}},"mcp_auth_heade_":{"a":1}}"#,
        ),
        (
            r#"{"mcp_\u0061uth_heade\u0072":1,"mcp_server_auth_header\u0073":1}"#,
            r#"{"mcp_\u0061uth_heade\u007f":1,"mcp_server_auth_header\u007f":1}"#,
        ),
    ] {
        assert_eq!(text(input), expected);
    }
    for input in [
        r#"{"mcp_auth_headers":1,"mcp_server_auth_header":2,"mcp_":3,"mcp_server_url":4,"mcpauth_context":5}"#,
        r#"{"a":"mcp_auth_header","b":["mcp_server_auth_headers"]}"#,
    ] {
        assert_eq!(text(input), input);
    }
}

#[test]
fn every_way_to_cut_the_text_in_three_gives_the_same() {
    let input = concat!(
        r#"[{"mcpauth-context":"mcpauth-context"},{"\u006Dcpauth-contex\u0074" :"#,
        r#"{"x-mcp-a-mcpauth-context":["mcpauth-context"]}}]"#
    )
    .as_bytes();
    let expected = filtered(&[input]);
    assert_ne!(expected, input);
    for first in 0..=input.len() {
        for second in first..=input.len() {
            let cut = filtered(&[&input[..first], &input[first..second], &input[second..]]);
            assert_eq!(cut, expected, "cut at {first} and {second}");
        }
    }
}

#[test]
fn a_chunk_without_the_key_is_passed_on_without_a_copy() {
    let chunk = Bytes::from_static(br#"{"messages":[{"content":"mcpauth-context"}]}"#);
    let (before, after) = KeyFilter::default().pass(chunk.clone());
    assert_eq!(before, None);
    assert_eq!(after.as_ptr(), chunk.as_ptr());
}

#[test]
fn depth_costs_little_and_hides_nothing() {
    let depth = 20 * MAX_DEPTH;
    let open = r#"{"a":["#.repeat(depth);
    let mut filter = KeyFilter::default();
    filter.pass(Bytes::from(open));
    assert!(filter.nesting.words.len() <= MAX_DEPTH / 64);
    let (_, deep) = filter.pass(Bytes::from_static(br#"0,{"mcpauth-context":1}"#));
    assert_eq!(&deep[..], br#"0,{"mcpauth-contex_":1}"#);
    filter.pass(Bytes::from("]}".repeat(depth - 1)));
    let (_, shallow) = filter.pass(Bytes::from_static(br#","mcpauth-context"],"mcpauth-context":1"#));
    assert_eq!(&shallow[..], br#","mcpauth-context"],"mcpauth-contex_":1"#);
}

/// JSON with our key here and there, in several spellings.
fn json_text() -> impl Strategy<Value = Value> {
    let word = prop_oneof![
        Just("mcpauth-context".to_owned()),
        Just("Mcpauth-CONTEXT".to_owned()),
        Just("mcpauth-contextual".to_owned()),
        Just("mcp_Auth_header".to_owned()),
        Just("mcp_server_auth_headers".to_owned()),
        Just("mcp_server_auth".to_owned()),
        Just("x-mcp-tools-Mcpauth-context".to_owned()),
        Just("x-mcp-mcpmcpauth-context-".to_owned()),
        "[a-z\"\\\\{}\\[\\],: \u{e9}\u{1F600}]{0,6}",
    ];
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<i32>().prop_map(Value::from),
        word.clone().prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            prop::collection::vec((word.clone(), inner), 0..5)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// What must come out.
fn renamed(value: Value) -> Value {
    let ours = |key: &str| {
        let key = key.to_ascii_lowercase();
        let members = ["mcpauth-context", "mcp_auth_header", "mcp_server_auth_headers"];
        members.contains(&key.as_str()) || key.starts_with("x-mcp-") && key.ends_with("mcpauth-context")
    };
    keys(value, &|key| match ours(&key) {
        true => format!("{}_", &key[..key.len() - 1]),
        false => key,
    })
}

/// An escaped `t` is `\u0074`, which becomes `\u007f`.
fn plain(value: Value) -> Value {
    keys(value, &|key| key.replace('\u{7f}', "_"))
}

fn keys(value: Value, rename: &dyn Fn(String) -> String) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(|item| keys(item, rename)).collect(),
        Value::Object(pairs) => {
            let pairs = pairs
                .into_iter()
                .map(|(key, value)| (rename(key), keys(value, rename)));
            Value::Object(pairs.collect::<Map<_, _>>())
        }
        other => other,
    }
}

/// Every character of every string as `\uXXXX`.
fn escaped(value: &Value) -> String {
    let string = |text: &str| {
        let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
        format!("\"{units}\"")
    };
    match value {
        Value::String(text) => string(text),
        Value::Array(items) => format!("[{}]", items.iter().map(escaped).collect::<Vec<_>>().join(" ,")),
        Value::Object(pairs) => {
            let pairs: Vec<String> = pairs
                .iter()
                .map(|(key, value)| format!("{} :\n{}", string(key), escaped(value)))
                .collect();
            format!("{{{}}}", pairs.join(","))
        }
        other => other.to_string(),
    }
}

fn cut<'a>(text: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
    at.extend([0, text.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..6)
}

proptest! {
    #[test]
    fn agrees_with_a_real_parser(value in json_text(), cuts in cuts()) {
        let compact = serde_json::to_vec(&value).unwrap();
        let pretty = serde_json::to_vec_pretty(&value).unwrap();
        for text in [compact, pretty, escaped(&value).into_bytes()] {
            let out = filtered(&cut(&text, &cuts));
            prop_assert_eq!(out.len(), text.len());
            prop_assert_eq!(plain(serde_json::from_slice(&out).unwrap()), renamed(value.clone()));
        }
    }

    #[test]
    fn any_bytes_keep_their_length(bytes in prop::collection::vec(any::<u8>(), 0..200), cuts in cuts()) {
        prop_assert_eq!(filtered(&cut(&bytes, &cuts)).len(), bytes.len());
    }
}
