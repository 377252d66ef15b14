use mcp_auth_crds::reasons;
use mcp_auth_oauth::IssuedToday;

use super::*;
use crate::store::{LastError, TokenSnapshot};

fn issuance(last_error: Option<LastError>) -> Issuance {
    Issuance {
        token: TokenSnapshot {
            preflight: vec![
                PreflightProblem::Grant {
                    grant: "client_credentials",
                    listed: vec!["authorization_code".into()],
                },
                PreflightProblem::MethodByDefault {
                    method: "client_secret_post",
                },
            ],
            last_error,
            ..TokenSnapshot::default()
        },
        ..Issuance::default()
    }
}

fn failed(reason: &str) -> LastError {
    LastError {
        at: jiff::Timestamp::UNIX_EPOCH,
        reason: reason.into(),
        condition: reasons::REQUEST_FAILED,
        message: "refused".into(),
    }
}

/// Entra's metadata list `openid`, `profile`, `email` and `offline_access`, and no scope of an application.
#[test]
fn a_scope_that_is_not_listed_is_told_only_after_the_server_refused_a_scope() {
    let message = |last_error| {
        let mut issuance = issuance(last_error);
        issuance.token.preflight = vec![PreflightProblem::Scopes {
            unlisted: vec!["api://tools/.default".into()],
        }];
        first_draft(CHECKS, &issuance).message
    };
    for silent in [
        message(None),
        message(Some(failed("invalid_client"))),
        message(Some(failed("ConnectDns"))),
    ] {
        assert!(!silent.contains("metadata"), "{silent}");
    }
    let told = message(Some(failed("invalid_scope")));
    assert!(
        told.contains("scopes_supported does not list api://tools/.default"),
        "{told}"
    );
}

#[test]
fn what_is_beyond_a_limit_is_told_and_the_token_in_use_serves_on() {
    let problem = crate::NotServedError::new(crate::NotServedReason::LimitExceeded, "one too many");
    let mut issuance = Issuance {
        problem: Some(problem),
        ..Issuance::default()
    };
    let none = first_draft(CHECKS, &issuance);
    assert_eq!(
        (none.holds, none.reason.as_str()),
        (Some(false), reasons::LIMIT_EXCEEDED)
    );
    issuance.token.in_use = Some(TokenInUse {
        expires_at: Some(jiff::Timestamp::UNIX_EPOCH),
        ..TokenInUse::default()
    });
    let serves = first_draft(CHECKS, &issuance);
    assert_eq!(
        (serves.holds, serves.reason.as_str()),
        (Some(true), reasons::LIMIT_EXCEEDED)
    );
    assert!(
        serves
            .message
            .starts_with("one too many; the token in use serves until 1970-01-01T00:00:00Z")
    );
    let secrets = super::super::secrets_resolved(&issuance);
    assert_eq!((secrets.holds, secrets.message), (Some(true), serves.message));
}

#[test]
fn users_tokens_at_their_limit_are_told_beside_a_token_that_serves_and_without_one() {
    let mut issuance = Issuance::default();
    issuance.token.user_tokens_limited_to = Some(UserTokenLimit::Tokens(7));
    issuance.token.users_only = Some(ServerLookUp::Stated);
    let drafts = [first_draft(CHECKS, &issuance), {
        issuance.token.users_only = None;
        issuance.token.in_use = Some(TokenInUse::default());
        first_draft(CHECKS, &issuance)
    }];
    for told in drafts {
        assert_eq!(
            (told.holds, told.reason.as_str()),
            (Some(true), reasons::LIMIT_EXCEEDED)
        );
        assert!(told.message.starts_with("7 users' tokens") && told.message.contains("limits.userTokens"));
    }
    issuance.token.user_tokens_limited_to = Some(UserTokenLimit::Bytes(32 * 1024 * 1024));
    let told = first_draft(CHECKS, &issuance).message;
    assert!(
        told.starts_with("33554 kB of users' tokens") && told.contains("shorter ones"),
        "{told}"
    );
}

fn with_usage(issued: u64, forecast: u64, quota: Option<u64>) -> Issuance {
    let mut issuance = Issuance::default();
    issuance.token.in_use = Some(TokenInUse::default());
    issuance.token.usage = Some(crate::store::TokenUsage {
        today: IssuedToday {
            day: "2026-11-30".parse().unwrap(),
            issued,
            forecast,
        },
        quota,
        client: None,
        is_partial: false,
        said_before: None,
    });
    issuance
}

#[test]
fn more_tokens_than_the_quota_are_told_when_they_are_expected_and_when_they_are_there() {
    for (issued, forecast, quota, expected) in [
        (9, 500, None, reasons::ISSUED),
        (9, 38, Some(38), reasons::ISSUED),
        (9, 39, Some(38), reasons::QUOTA_FORECAST),
        (38, 39, Some(38), reasons::QUOTA_FORECAST),
        (39, 39, Some(38), reasons::QUOTA_EXCEEDED),
    ] {
        let told = first_draft(CHECKS, &with_usage(issued, forecast, quota));
        assert_eq!((told.holds, told.reason.as_str()), (Some(true), expected));
        let is_told = told.message.contains("spec.oauth2.quota.tokensPerDay is 38");
        assert_eq!(is_told, expected != reasons::ISSUED, "{}", told.message);
    }
    // A token that does not fit is minted with each try.
    let mut failing = with_usage(39, 160, Some(38));
    failing.token.in_use = None;
    failing.token.last_error = Some(failed("TokenMismatch"));
    let told = first_draft(CHECKS, &failing);
    assert_eq!(told.holds, Some(false));
    assert!(
        told.message.contains("39 tokens were issued today"),
        "{}",
        told.message
    );
    failing.token.last_error = None;
    failing.token.users_only = Some(ServerLookUp::Stated);
    assert_eq!(first_draft(CHECKS, &failing).reason, reasons::QUOTA_EXCEEDED);
}

#[test]
fn the_identity_provider_that_was_looked_up_is_named() {
    let mut issuance = Issuance::default();
    issuance.token.users_only = Some(ServerLookUp::Discovered);
    issuance.token.identity_provider = Some("https://sso.example.com".into());
    let told = first_draft(CHECKS, &issuance).message;
    assert!(
        told.contains("the metadata of the identity provider https://sso.example.com were read"),
        "{told}"
    );
}

#[test]
fn clocks_that_differ_are_told_beside_the_token_and_beside_a_failure() {
    let with = |clock_offset, in_use: bool| {
        let mut issuance = issuance((!in_use).then(|| failed("invalid_client")));
        issuance.token.clock_offset = clock_offset;
        issuance.token.in_use = in_use.then(TokenInUse::default);
        first_draft(CHECKS, &issuance)
    };
    let behind = with(-90, true);
    assert_eq!(
        (behind.holds, behind.reason.as_str()),
        (Some(true), reasons::CLOCK_SKEW)
    );
    assert!(
        behind
            .message
            .starts_with("the authorization server's clock is 90 s behind the operator's"),
        "{}",
        behind.message
    );
    assert_eq!(with(29, true).reason, reasons::ISSUED);
    let failing = with(90, false).message;
    assert!(failing.contains("90 s ahead of the operator's"), "{failing}");
}

#[test]
fn what_the_metadata_state_is_told_before_the_first_answer_and_their_silence_after_it() {
    let before = first_draft(CHECKS, &issuance(None));
    assert_eq!((before.holds, before.reason.as_str()), (None, reasons::PENDING));
    assert_eq!(
        before.message,
        "the first token is being requested; the authorization server's metadata speak against it: \
         grant_types_supported has authorization_code, and not client_credentials: allow this client that grant, \
         or use another"
    );
    let after = first_draft(CHECKS, &issuance(Some(failed("unauthorized_client"))));
    assert_eq!(after.reason, reasons::REQUEST_FAILED);
    for part in [
        "refused; ",
        "client_credentials",
        "token_endpoint_auth_methods_supported",
    ] {
        assert!(after.message.contains(part), "{}", after.message);
    }
}

#[test]
fn where_resources_have_one_client_its_sum_counts_and_the_first_ten_are_named() {
    let mut issuance = with_usage(3, 30, Some(100));
    let largest = (0..10_u32).map(|index| (format!("tools-{index}"), u64::from(20 - index)));
    issuance.token.usage.as_mut().unwrap().client = Some(crate::store::ClientUsage {
        issued: 40,
        forecast: 174,
        resources: 12,
        largest: largest.collect(),
        issued_to_former: 5,
    });
    let told = first_draft(CHECKS, &issuance);
    assert_eq!(
        (told.holds, told.reason.as_str()),
        (Some(true), reasons::QUOTA_FORECAST)
    );
    for part in [
        "40 tokens were issued today (UTC), about 174 will be by midnight",
        "to the client that 12 resources of this namespace have (by midnight: tools-0 20, tools-1 19, ",
        "tools-9 11, and 2 others; 5 were for resources that have another client by now), and spec.oauth2.quota.tokensPerDay is 100",
    ] {
        assert!(told.message.contains(part), "{}", told.message);
    }
}
