//! What the next leader says of a quota.

use super::*;

/// As the leader before left it: this many tokens were issued today, and that is too many together with the others'.
fn exceeded(resource: McpServerAuth, issued: u64) -> McpServerAuth {
    let exceeded = json!({
        "type": "TokenIssued", "status": "True", "reason": reasons::QUOTA_EXCEEDED,
        "message": "9 tokens were issued today", "lastTransitionTime": now().to_string(),
    });
    let status = json!({
        "observedGeneration": 1,
        "conditions": [exceeded],
        "token": {"usage": {"date": "2027-01-15", "issued": issued, "forecast": issued, "quota": 7}},
    });
    McpServerAuth {
        status: Some(serde_json::from_value(status).unwrap()),
        ..resource
    }
}

fn pending() -> NotServedError {
    NotServedError::new(NotServedReason::Pending, "it is being read")
}

fn told(operator: &Operator, resource: &McpServerAuth) -> (String, String) {
    let told = crate::conditions::token_issued(&operator.credentials.get(resource).issuance);
    (told.reason, told.message)
}

/// Waits until another reason is given than this one.
async fn told_otherwise(operator: &mut Operator, resource: &McpServerAuth, reason: &str) -> String {
    loop {
        let told = told(operator, resource).0;
        if told != reason {
            return told;
        }
        operator.status_due.recv().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn it_holds_what_was_said_of_a_quota_until_it_knows_whose_tokens_were_counted() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut operator = operator();
    let client_id =
        json!({"clientIdSecretRef": {"name": "oauth", "key": "id"}, "quota": {"tokensPerDay": 7}});
    let [tools, mail] =
        [("tools", 5), ("mail", 4)].map(|(name, issued)| exceeded(client(name, client_id.clone()), issued));
    operator.sources.resume_counts([&tools, &mail]);
    // The Secret of the one is read before that of the other, which is missing for a while.
    operator.sources.apply(&tools, Ok(users_only(Some(7))));
    let before = (
        reasons::QUOTA_EXCEEDED.to_owned(),
        "9 tokens were issued today".to_owned(),
    );
    assert_eq!(told(&operator, &tools), before);
    for problem in [pending(), gone()] {
        operator.sources.apply(&mail, Err(problem));
        operator.sources.apply(&tools, Ok(users_only(Some(7))));
        assert_eq!(told(&operator, &tools), before);
    }
    operator.sources.apply(&mail, Ok(users_only(Some(7))));
    operator.sources.apply(&tools, Ok(users_only(Some(7))));
    let (reason, message) = told(&operator, &tools);
    assert_eq!(reason, reasons::QUOTA_EXCEEDED);
    assert!(message.contains("(by midnight: tools 5, mail 4)"), "{message}");

    // From then on it says what it knows.
    operator.sources.remove(&ResourceRef::from(&mail));
    let otherwise = told_otherwise(&mut operator, &tools, reasons::QUOTA_EXCEEDED).await;
    assert_eq!(otherwise, reasons::USER_TOKENS_ONLY);
}

#[tokio::test(start_paused = true)]
async fn it_knows_at_once_whose_tokens_were_counted_where_resources_state_their_client() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut operator = operator();
    let stated = json!({"clientId": "litellm", "quota": {"tokensPerDay": 7}});
    let [tools, mail] =
        [("tools", 5), ("mail", 4)].map(|(name, issued)| exceeded(client(name, stated.clone()), issued));
    operator.sources.resume_counts([&tools, &mail]);
    operator.sources.apply(&mail, Err(gone()));
    operator.sources.apply(&tools, Ok(users_only(Some(7))));
    let (reason, message) = told(&operator, &tools);
    assert_eq!(reason, reasons::QUOTA_EXCEEDED);
    assert!(message.contains("(by midnight: tools 5, mail 4)"), "{message}");
    // Yesterday is over for the one that is missing, too.
    let otherwise = told_otherwise(&mut operator, &tools, reasons::QUOTA_EXCEEDED).await;
    assert_eq!(otherwise, reasons::USER_TOKENS_ONLY);
    let usage = operator.credentials.get(&tools).issuance.token.usage.unwrap();
    assert_eq!((usage.of_client(), usage.is_partial), ((0, 0), false));
}

#[tokio::test(start_paused = true)]
async fn what_was_said_yesterday_or_of_another_version_is_not_held() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client_id =
        json!({"clientIdSecretRef": {"name": "oauth", "key": "id"}, "quota": {"tokensPerDay": 7}});
    let stale: [fn(&mut McpServerAuth); 2] = [
        |resource| resource.metadata.generation = Some(2),
        |resource| {
            let token = resource.status.as_mut().and_then(|status| status.token.as_mut());
            token.unwrap().usage.as_mut().unwrap().date = "2027-01-14".into();
        },
    ];
    for make_stale in stale {
        let operator = operator();
        let [mut tools, mail] = ["tools", "mail"].map(|name| exceeded(client(name, client_id.clone()), 5));
        make_stale(&mut tools);
        operator.sources.resume_counts([&tools, &mail]);
        operator.sources.apply(&tools, Ok(users_only(Some(7))));
        assert_eq!(told(&operator, &tools).0, reasons::USER_TOKENS_ONLY);
    }
}
