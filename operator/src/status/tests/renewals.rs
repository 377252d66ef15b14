//! What a renewal does to the status, and when.

use mcp_auth_oauth::IssuedToday;

use super::*;

#[test]
fn a_forecast_changes_with_the_outcome_of_a_renewal_and_not_with_its_request() {
    let mut resource = resource("https://tools.example.com/mcp");
    let forecast_of = |resource: &McpServerAuth, next: Timestamp, (issued, forecast): (u64, u64)| {
        let mut scenario = good(resource);
        scenario.token.next_attempt_at = Some(next);
        let day = "2026-11-23".parse().unwrap();
        let today = IssuedToday {
            day,
            issued,
            forecast,
        };
        scenario.token.usage = Some(Usage {
            today,
            quota: None,
            client: None,
            is_partial: false,
            said_before: None,
        });
        status(&scenario, now())
    };
    let usage = |status: &McpServerAuthStatus| {
        let usage = status.token.as_ref().unwrap().usage.as_ref().unwrap();
        (usage.issued, usage.forecast)
    };
    let planned = now() + jiff::SignedDuration::from_mins(40);
    let before = forecast_of(&resource, planned, (3, 21));
    resource.status = Some(before.clone());
    assert_eq!(forecast_of(&resource, now(), (3, 90)), before);
    assert_eq!(
        usage(&forecast_of(&resource, now(), (4, 90))),
        (4, 90),
        "a user got one meanwhile"
    );
    assert_eq!(usage(&forecast_of(&resource, planned, (3, 23))), (3, 23));
    assert_eq!(
        forecast_of(&resource, planned, (3, 20)),
        before,
        "the next leader counts from whole seconds"
    );
}

#[test]
fn a_renewal_that_is_under_way_changes_nothing_in_the_status_before_it_has_an_outcome() {
    let mut resource = resource("https://tools.example.com/mcp");
    let with_next = |resource: &McpServerAuth, at: Option<Timestamp>| {
        let mut scenario = good(resource);
        scenario.token.next_attempt_at = at;
        status(&scenario, now())
    };
    let planned = now() + jiff::SignedDuration::from_mins(40);
    let before = with_next(&resource, Some(planned));
    resource.status = Some(before.clone());
    // An MCP server has rejected the token: the next one is requested at once.
    assert_eq!(with_next(&resource, Some(now())), before);

    let next_refresh = |status: &McpServerAuthStatus| status.token.as_ref().unwrap().next_refresh_at.clone();
    assert!(next_refresh(&before).is_some());
    assert_eq!(
        next_refresh(&with_next(&resource, None)),
        None,
        "no request is planned any more"
    );
    let earlier = Time(now() - jiff::SignedDuration::from_hours(1));
    resource
        .status
        .as_mut()
        .unwrap()
        .token
        .as_mut()
        .unwrap()
        .issued_at = Some(earlier);
    assert_eq!(
        next_refresh(&with_next(&resource, Some(now()))),
        None,
        "what was said of another token says nothing of this one"
    );
}
