use super::*;

fn args(values: &[&str]) -> (tempfile::TempDir, ChartArgs) {
    let folder = tempfile::tempdir().unwrap();
    let files = values.iter().enumerate().map(|(index, text)| {
        let path = folder.path().join(format!("{index}.yaml"));
        std::fs::write(&path, text).unwrap();
        path
    });
    let args = ChartArgs {
        values: files.collect(),
        release: "mcp-auth".to_owned(),
        release_namespace: "mcp-auth-system".to_owned(),
        sidecar_settings: None,
    };
    (folder, args)
}

fn read_values(values: &[&str]) -> Result<ChartSettings, ChartValuesError> {
    let (_folder, args) = args(values);
    ChartSettings::read(&args)
}

#[test]
fn without_values_the_charts_own_count_and_the_image_that_they_leave_open_is_told() {
    let chart = read_values(&[]).unwrap();
    let settings = &chart.settings;
    assert_eq!(
        settings.image,
        format!("mcp-auth-sidecar:{}", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(settings.resources.requests.as_ref().unwrap()["memory"].0, "24Mi");
    assert_eq!(
        settings.operator.url,
        "https://mcp-auth-operator.mcp-auth-system.svc:443"
    );
    assert!(
        chart.notes[0].contains("sidecar.image.repository"),
        "{:?}",
        chart.notes
    );
}

#[test]
fn the_last_values_win_and_leave_the_rest_of_the_others() {
    let chart = read_values(&[
        "sidecar: {image: {repository: registry.company.com/sidecar, tag: '1'}, drainSeconds: 9}",
        "sidecar: {image: {digest: 'sha256:aa'}, imagePullSecrets: [{name: pull}], log: debug}",
        "",
    ])
    .unwrap();
    let settings = &chart.settings;
    assert_eq!(settings.image, "registry.company.com/sidecar@sha256:aa");
    assert_eq!(settings.image_pull_secrets, ["pull"]);
    assert_eq!((settings.drain_seconds, settings.log.as_str()), (9, "debug"));
    assert!(chart.notes.is_empty(), "{:?}", chart.notes);
}

#[test]
fn the_registry_for_all_images_stands_in_place_of_the_one_that_a_repository_names() {
    for (repository, expected) in [
        ("ghcr.io/team/sidecar", "mirror.company.com:5000/x/team/sidecar"),
        ("localhost/sidecar", "mirror.company.com:5000/x/sidecar"),
        ("team/sidecar", "mirror.company.com:5000/x/team/sidecar"),
        ("sidecar", "mirror.company.com:5000/x/sidecar"),
    ] {
        let image = format!("sidecar: {{image: {{repository: {repository}, tag: '1'}}}}");
        let chart = read_values(&[
            "global: {imageRegistry: mirror.company.com:5000/x/, of: others}",
            &image,
        ])
        .unwrap();
        assert_eq!(chart.settings.image, format!("{expected}:1"), "{repository}");
    }
}

#[test]
fn the_operators_address_has_the_name_that_the_chart_gives_it() {
    for (release, values, expected) in [
        ("mcp-auth", "{}", "mcp-auth"),
        ("auth", "{}", "auth-mcp-auth"),
        ("my-mcp-auth-1", "{}", "my-mcp-auth-1"),
        ("auth", "nameOverride: tokens", "auth-tokens"),
        ("auth", "fullnameOverride: tokens", "tokens"),
    ] {
        let (_folder, mut args) = args(&[values]);
        args.release = release.to_owned();
        args.release_namespace = "ops".to_owned();
        let chart = ChartSettings::read(&args).unwrap();
        assert_eq!(
            chart.settings.operator.url,
            format!("https://{expected}-operator.ops.svc:443"),
            "{release} {values}"
        );
    }
    let long = format!("{}-x", "a".repeat(51));
    assert_eq!(full_name("r", "", &long), "a".repeat(51));
}

#[test]
fn namespaces_that_the_webhook_leaves_out_are_told_with_the_value_to_change() {
    let chart =
        read_values(&["watchNamespaces: [llm, other]\nwebhook: {excludedNamespaces: [other]}"]).unwrap();
    let pod = |namespace: &str, labels: &Labels| {
        let mut pod = Pod::default();
        pod.metadata.namespace = Some(namespace.to_owned());
        pod.metadata.labels = Some(labels.clone());
        pod
    };
    let none = Labels::new();
    assert_eq!(chart.leaves_out(&pod("llm", &none)), None);
    let why = |namespace| chart.leaves_out(&pod(namespace, &none)).unwrap();
    assert!(
        why("other").contains("webhook.excludedNamespaces"),
        "{}",
        why("other")
    );
    assert!(why("third").contains("watchNamespaces"), "{}", why("third"));
    assert!(why("kube-system").contains("never"), "{}", why("kube-system"));

    let selectors =
        "webhook: {namespaceSelector: {matchLabels: {a: b}}, objectSelector: {matchLabels: {tier: gateway}}}";
    let chart = read_values(&[selectors]).unwrap();
    assert!(
        chart.notes[1].contains("webhook.namespaceSelector"),
        "{:?}",
        chart.notes
    );
    let gateway = Labels::from([("tier".to_owned(), "gateway".to_owned())]);
    assert_eq!(chart.leaves_out(&pod("llm", &gateway)), None);
    let why = chart.leaves_out(&pod("llm", &none)).unwrap();
    assert!(why.contains("webhook.objectSelector"), "{why}");
}

#[test]
fn values_that_the_chart_would_refuse_are_named() {
    for (values, expected) in [
        (
            "sidecar: {drainSecond: 5}",
            "sidecar: unknown field `drainSecond`",
        ),
        ("sidecar: {image: sidecar}", "sidecar.image: invalid type"),
        (
            "sidecar: {image: {repositry: a}}",
            "sidecar.image.repositry: unknown field",
        ),
        ("sidecar: {resources: {limits: {cpu: abc}}}", "limits.cpu"),
        ("watchNamespaces: llm", "watchNamespaces: invalid type"),
        ("- a", "holds no values of the chart"),
        ("a: [", "is not YAML"),
    ] {
        let error = read_values(&[values]).unwrap_err().to_string();
        assert!(error.contains(expected), "{values}: {error}");
    }
}

#[test]
fn a_number_with_an_exponent_is_written_as_helm_writes_it() {
    let chart = read_values(&["sidecar: {resources: {limits: {memory: 1e8}}}"]).unwrap();
    let limits = chart.settings.resources.limits.unwrap();
    assert_eq!(limits["memory"].0, "100000000");
}
