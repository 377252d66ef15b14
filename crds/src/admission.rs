//! Admission without an API server: what it would do with a resource, by the same definition. Nulls are taken for
//! absent fields and defaults filled in, then the OpenAPI schema and its CEL rules are checked. Messages are the API server's,
//! without the values that it repeats.

use boon::{Compiler, Draft, ErrorKind, SchemaIndex, Schemas};
use boon::{InstanceLocation, InstanceToken, ValidationError};
use kube::CustomResourceExt;
use kube_cel::{CompiledSchema, Validator, apply_defaults, compile_schema};
use serde_json::{Number, Value, json};

use crate::McpServerAuth;

/// Where the schema stands, for the compiler.
const SCHEMA: &str = "mcpserverauths.json";
/// What begins the problem of a text that does not match.
const PATTERN: &str = "should match";
/// Longest name of an object (RFC 1123 subdomain).
const MAX_NAME_BYTES: usize = 253;

/// The definition, compiled. Making it takes some milliseconds.
pub struct Admission {
    /// Without the CEL rules, and with every unknown field an error, as `kubectl` demands by default.
    schemas: Schemas,
    index: SchemaIndex,
    /// Of defaults and CEL rules.
    schema: Value,
    rules: CompiledSchema,
    validator: Validator,
}

/// What is wrong with one field.
#[derive(Clone, Debug, Eq, thiserror::Error, PartialEq)]
#[error("{field}: {problem}")]
pub struct Violation {
    pub field: String,
    pub problem: String,
}

impl Default for Admission {
    fn default() -> Self {
        Self::new()
    }
}

impl Admission {
    pub fn new() -> Self {
        let definition = serde_json::to_value(McpServerAuth::crd()).expect("the definition is JSON");
        let schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
        let mut strict = schema.clone();
        for field in ["apiVersion", "kind", "metadata"] {
            strict["properties"][field] = json!({});
        }
        close(&mut strict);
        let mut compiler = Compiler::new();
        compiler.set_default_draft(Draft::V4);
        let mut schemas = Schemas::new();
        compiler
            .add_resource(SCHEMA, strict)
            .expect("the name of the schema is a relative URL");
        let index = compiler
            .compile(SCHEMA, &mut schemas)
            .expect("the schema is generated, and a test compiles it");
        Self {
            rules: compile_schema(&schema),
            schemas,
            index,
            schema,
            validator: Validator::new(),
        }
    }

    /// The resource with its defaults, or all that is wrong with it. What another program wrote into `status` is
    /// left out.
    pub fn admit(&self, object: &Value) -> Result<McpServerAuth, Vec<Violation>> {
        let mut object = without_nulls(&self.schema, object);
        if let Some(fields) = object.as_object_mut() {
            fields.remove("status");
        }
        let object = apply_defaults(&self.schema, &object);
        let mut violations = name_violation(&object).into_iter().collect::<Vec<_>>();
        if let Err(error) = self.schemas.validate(&object, self.index) {
            collect(&error, &mut violations);
            // Of a text that is too short or too long nothing else is said.
            violations
                .sort_by_key(|violation| (violation.field.clone(), violation.problem.starts_with(PATTERN)));
            violations.dedup_by(|later, first| later.field == first.field);
        }
        if violations.is_empty()
            && let Err(errors) = self.validator.validate_compiled(&self.rules, &object, None)
        {
            violations.extend(errors.into_vec().into_iter().map(|error| Violation {
                field: error.field_path,
                problem: error.message,
            }));
        }
        if !violations.is_empty() {
            return Err(violations);
        }
        serde_json::from_value(object).map_err(|_| {
            vec![Violation {
                field: "spec".to_owned(),
                problem: "is not what the schema says".to_owned(),
            }]
        })
    }
}

/// The API server takes an explicit null for an absent field where the field is nullable or has a default.
fn without_nulls(schema: &Value, value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().filter_map(|(key, value)| {
                let schema = match &schema["properties"][key] {
                    Value::Null => &schema["additionalProperties"],
                    stated => stated,
                };
                let may_be_absent = schema["nullable"] == true || !schema["default"].is_null();
                let is_absent = value.is_null() && may_be_absent;
                (!is_absent).then(|| (key.clone(), without_nulls(schema, value)))
            });
            Value::Object(fields.collect())
        }
        Value::Array(items) => {
            let items = items.iter().map(|item| without_nulls(&schema["items"], item));
            Value::Array(items.collect())
        }
        other => other.clone(),
    }
}

/// Makes unknown fields of every object an error.
fn close(schema: &mut Value) {
    let Some(keywords) = schema.as_object_mut() else {
        return;
    };
    // They mean something else to OpenAPI than to JSON Schema, or nothing.
    keywords.remove("format");
    if let Some(fields) = keywords.get_mut("properties").and_then(Value::as_object_mut) {
        fields.values_mut().for_each(close);
        keywords.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    for nested in ["items", "additionalProperties"] {
        if let Some(nested) = keywords.get_mut(nested) {
            close(nested);
        }
    }
}

fn name_violation(object: &Value) -> Option<Violation> {
    let violation = |problem: &str| {
        Some(Violation {
            field: "metadata.name".to_owned(),
            problem: problem.to_owned(),
        })
    };
    let Some(name) = object["metadata"]["name"]
        .as_str()
        .filter(|name| !name.is_empty())
    else {
        return violation("Required value: name or generateName is required");
    };
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        let ends = bytes.first().into_iter().chain(bytes.last());
        !bytes.is_empty()
            && ends.copied().all(is_inner)
            && bytes.iter().all(|byte| is_inner(*byte) || *byte == b'-')
    };
    if name.len() > MAX_NAME_BYTES || !name.split('.').all(is_label) {
        return violation(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and \
             must start and end with an alphanumeric character",
        );
    }
    None
}

/// The leaves of the tree of errors.
fn collect(error: &ValidationError<'_, '_>, into: &mut Vec<Violation>) {
    error.causes.iter().for_each(|cause| collect(cause, into));
    let field = path(&error.instance_location);
    let below = |name: &str| match field.is_empty() {
        true => name.to_owned(),
        false => format!("{field}.{name}"),
    };
    let mut add = |field: String, problem: String| into.push(Violation { field, problem });
    match &error.kind {
        ErrorKind::Required { want } => {
            for name in want {
                add(below(name), "Required value".to_owned());
            }
        }
        ErrorKind::AdditionalProperties { got } => {
            for name in got {
                add(below(name), "unknown field".to_owned());
            }
        }
        ErrorKind::Enum { want } => {
            let values: Vec<String> = want.iter().map(Value::to_string).collect();
            add(field, format!("supported values: {}", values.join(", ")));
        }
        ErrorKind::Type { got, want } => {
            let want: Vec<String> = want.iter().map(|kind| kind.to_string()).collect();
            add(field, format!("must be of type {}: \"{got}\"", want.join(" or ")));
        }
        ErrorKind::Pattern { want, .. } => add(field, format!("{PATTERN} '{want}'")),
        ErrorKind::MinItems { want, .. } => add(field, format!("should have at least {want} items")),
        ErrorKind::MinProperties { want, .. } => {
            add(field, format!("should have at least {want} properties"));
        }
        ErrorKind::MinLength { want, .. } => {
            add(field, format!("should be at least {want} chars long"));
        }
        ErrorKind::MaxLength { want, .. } => {
            add(field, format!("may not be more than {want} bytes"));
        }
        ErrorKind::MaxItems { want, .. } | ErrorKind::MaxProperties { want, .. } => {
            add(field, format!("must have at most {want} items"));
        }
        ErrorKind::Minimum { want, .. } => {
            add(
                field,
                format!("should be greater than or equal to {}", plain(want)),
            );
        }
        ErrorKind::Maximum { want, .. } => {
            add(field, format!("should be less than or equal to {}", plain(want)));
        }
        // A branch: its leaves say it.
        _ if !error.causes.is_empty() => {}
        _ => add(field, "is not what the schema says".to_owned()),
    }
}

/// Without the decimal point of the generated schema.
fn plain(number: &Number) -> String {
    number.as_f64().unwrap_or_default().to_string()
}

fn path(location: &InstanceLocation<'_>) -> String {
    let mut path = String::new();
    for token in &location.tokens {
        match token {
            InstanceToken::Prop(name) if path.is_empty() => path.push_str(name),
            InstanceToken::Prop(name) => path.extend([".", name]),
            InstanceToken::Item(index) => path.push_str(&format!("[{index}]")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;

    fn good() -> Value {
        json!({
            "apiVersion": "mcpauth.dev/v1alpha1",
            "kind": "McpServerAuth",
            "metadata": {"name": "tools"},
            "spec": {
                "server": {"name": "tools", "url": "https://tools.example.com/mcp"},
                "bearerToken": {"secretKeyRef": {"name": "token", "key": "token"}},
                "oauth2": null,
            },
        })
    }

    /// The good one with one field changed.
    fn with(pointer: &[&str], value: Value) -> Value {
        let mut object = good();
        let mut at = &mut object["spec"];
        for name in pointer {
            if !at.is_object() {
                *at = Value::Object(Map::new());
            }
            at = &mut at[*name];
        }
        *at = value;
        object
    }

    fn refusal(object: &Value) -> String {
        let violations = Admission::new().admit(object).unwrap_err();
        let lines: Vec<String> = violations.iter().map(Violation::to_string).collect();
        lines.join("\n")
    }

    fn app(fields: Value) -> Value {
        let mut app = json!({
            "appId": 1, "installationId": 2, "keyRef": {"name": "github", "key": "key.pem"},
        });
        for (name, value) in fields.as_object().unwrap() {
            app[name] = value.clone();
        }
        app
    }

    #[test]
    fn a_github_app_is_checked_field_by_field() {
        let with_app = |fields| {
            let mut object = good();
            let spec = object["spec"].as_object_mut().unwrap();
            spec.remove("bearerToken");
            spec.insert("githubApp".into(), app(fields));
            object
        };
        let resource = Admission::new().admit(&with_app(json!({}))).unwrap();
        let github_app = resource.spec.github_app.unwrap();
        assert_eq!(github_app.api_url, "https://api.github.com");
        for (fields, expected) in [
            (
                json!({"appId": "12"}),
                "spec.githubApp.appId: must be of type integer",
            ),
            (json!({"installationId": 0}), "spec.githubApp.installationId: "),
            (
                json!({"keyRef": {"name": "github"}}),
                "spec.githubApp.keyRef.key: Required value",
            ),
            (
                json!({"apiUrl": "http://ghe.example.com/api/v3"}),
                "githubApp.allowInsecureHttp: true",
            ),
            (
                json!({"apiUrl": "https://me:s3cret@ghe.example.com"}),
                "apiUrl must be an absolute",
            ),
            (
                json!({"repositories": ["company/tools"]}),
                "repositories must be named without their owner",
            ),
            (
                json!({"permissions": {"Contents": "read"}}),
                "permissions must be named as in GitHub's API",
            ),
            (
                json!({"permissions": {"contents": "all"}}),
                "supported values: \"read\", \"write\", \"admin\"",
            ),
        ] {
            let refusal = refusal(&with_app(fields));
            assert!(refusal.contains(expected), "{refusal}");
            assert!(!refusal.contains("s3cret"), "{refusal}");
        }
    }

    #[test]
    fn a_good_resource_gets_its_defaults_and_keeps_no_nulls() {
        let resource = Admission::new().admit(&good()).unwrap();
        assert!(resource.spec.oauth2.is_none());
        assert!(resource.spec.pod_selector.match_labels.is_some());
    }

    #[test]
    fn every_rule_of_the_definition_can_be_evaluated() {
        let admission = Admission::new();
        let errors = admission.rules.compilation_errors();
        assert!(errors.is_empty(), "{errors:?}");
    }

    #[test]
    fn what_is_of_the_service_s_token_is_refused_where_there_is_none() {
        let users_only = |fields: Value| {
            let mut object = good();
            let spec = object["spec"].as_object_mut().unwrap();
            spec.remove("bearerToken");
            let mut oauth2 = json!({
                "issuer": "https://auth.example.com",
                "clientId": "litellm",
                "clientAuthentication": {
                    "method": "ClientSecretBasic",
                    "clientSecretRef": {"name": "oauth", "key": "secret"},
                },
                "serviceToken": "None",
                "tokenExchange": {"subjectCookie": "session"},
            });
            for (name, value) in fields.as_object().unwrap() {
                oauth2[name] = value.clone();
            }
            spec.insert("oauth2".into(), oauth2);
            object
        };
        let assertion = json!({"assertionRef": {"name": "assertion", "key": "jwt"}});
        for fields in [
            json!({"revokeOnDeletion": true}),
            json!({"stepUpAllowedScopes": ["tools.write"]}),
            json!({"jwtBearer": assertion}),
        ] {
            let refusal = refusal(&users_only(fields.clone()));
            assert!(
                refusal.contains("have no effect while serviceToken is None"),
                "{fields}: {refusal}"
            );
            let mut with_service_token = fields;
            with_service_token["serviceToken"] = json!("Requested");
            let admitted = Admission::new().admit(&users_only(with_service_token.clone()));
            assert!(admitted.is_ok(), "{with_service_token}: {admitted:?}");
        }
        // Of users' tokens too.
        let unlimited = json!({"zeroExpiresIn": "Unlimited"});
        assert!(Admission::new().admit(&users_only(unlimited)).is_ok());
    }

    #[test]
    fn schema_and_rules_are_told_with_field_and_way_out_and_without_values() {
        for (object, expected) in [
            (
                with(&["server", "name"], json!("s3cret-tools")),
                "spec.server.name: should match '^[A-Za-z0-9_]+$'",
            ),
            (
                with(&["server", "url"], json!("http://tools.example.com")),
                "spec.server: url is plain http",
            ),
            (
                with(&["bearerToken", "secretKeyRef"], json!({"name": "token"})),
                "spec.bearerToken.secretKeyRef.key: Required value",
            ),
            (
                with(&["server", "uri"], json!("s3cret")),
                "spec.server.uri: unknown field",
            ),
            (
                with(&["userContext"], json!("s3cret")),
                "spec.userContext: supported values: \"Optional\", \"Required\"",
            ),
            (
                with(&["cookiePassthrough", "enabled"], json!("s3cret")),
                "spec.cookiePassthrough.enabled: must be of type boolean: \"string\"",
            ),
            (
                with(&["cookiePassthrough", "enabled"], json!(true)),
                "spec.cookiePassthrough: cookieNames must name the cookies",
            ),
            (
                with(&["server", "affinityCookies"], json!(["ok", "s3cret;"])),
                "spec.server.affinityCookies[1]: should match",
            ),
            (
                with(&["server", "affinityCookies"], json!(["token"])),
                "spec.server: the cookie `token` is LiteLLM's own",
            ),
            (
                with(&["server", "affinityCookies"], json!(vec!["c"; 9])),
                "spec.server.affinityCookies: must have at most 8 items",
            ),
            (
                with(&["headerPassthrough", "headerNames"], json!(["ok", "a b"])),
                "spec.headerPassthrough.headerNames[1]: should match",
            ),
            (
                with(&["headerPassthrough", "headerNames"], json!(["X-Forwarded-For"])),
                "spec.headerPassthrough: headerNames must not hold",
            ),
            (
                with(&["bearerToken"], json!(null)),
                "spec: exactly one of oauth2, githubApp and bearerToken must be set",
            ),
            (
                with(&["githubApp"], app(json!({}))),
                "spec: exactly one of oauth2, githubApp and bearerToken must be set",
            ),
        ] {
            let refusal = refusal(&object);
            assert!(refusal.contains(expected), "{refusal}");
            assert!(!refusal.contains("s3cret"), "{refusal}");
        }
        for (path, value) in [
            (
                &["cookiePassthrough"][..],
                json!({"enabled": true, "cookieNames": ["sid", "lb"]}),
            ),
            (&["audit", "user"], json!({"cookie": "lb"})),
        ] {
            let mut object = with(path, value);
            object["spec"]["server"]["affinityCookies"] = json!(["other-lb"]);
            assert!(Admission::new().admit(&object).is_ok(), "{object}");
            object["spec"]["server"]["affinityCookies"] = json!(["other-lb", "lb"]);
            let refusal = refusal(&object);
            let expected = "spec: server.affinityCookies names a cookie of users";
            assert!(refusal.contains(expected), "{refusal}");
        }
        let mut unnamed = good();
        unnamed["metadata"]["name"] = json!("Tools_1");
        assert!(refusal(&unnamed).contains("metadata.name: a lowercase RFC 1123 subdomain"));
    }
}
