pub struct SidecarSettings;
impl SidecarSettings {
    pub fn read(_p: &std::path::Path) -> anyhow::Result<Self> {
        Ok(Self)
    }
    pub fn inject(&self, _u: &str) {}
}
