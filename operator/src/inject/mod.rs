pub mod annotations {
    pub const INJECT_LABEL: &str = "mcpauth.dev/inject";
    pub const SKIPPED: &str = "mcpauth.dev/skipped";
    pub const INJECTED: &str = "mcpauth.dev/injected";
}
