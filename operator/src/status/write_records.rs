//! Write records: what was last written of each resource's status, and how often writing it failed since. The
//! watch may still show an earlier status, so what is to be written is compared with this too.

use std::collections::HashMap;

use kube::Resource;
use mcp_auth_crds::{McpServerAuth, McpServerAuthStatus};
use mcp_auth_credentials::ResourceRef;
use parking_lot::Mutex;

/// One record for each resource, until it is deleted.
#[derive(Default)]
pub struct WriteRecords(Mutex<HashMap<ResourceRef, WriteRecord>>);

#[derive(Default)]
struct WriteRecord {
    /// A resource that is created again under the same name has another one, and nothing was written for it.
    uid: Option<String>,
    last_written: Option<McpServerAuthStatus>,
    /// The version of the resource that the watch showed then.
    written_over: Option<String>,
    failures: u32,
}

impl WriteRecords {
    pub fn last_written(&self, resource: &McpServerAuth) -> Option<McpServerAuthStatus> {
        self.with_record(resource, |record| record.last_written.clone())
    }

    /// `resource` is as the watch showed it.
    pub fn written(&self, resource: &McpServerAuth, status: McpServerAuthStatus) {
        let version = resource.meta().resource_version.clone();
        self.with_record(resource, |record| {
            record.last_written = Some(status);
            record.written_over = version;
        });
    }

    /// Whether the watch still shows the resource as it was before the last status was written.
    pub fn is_unseen(&self, watched: &McpServerAuth) -> bool {
        let version = watched.meta().resource_version.as_ref();
        self.with_record(watched, |record| {
            version.is_some() && record.written_over.as_ref() == version
        })
    }

    /// The status is as it should be.
    pub fn succeeded(&self, resource: &McpServerAuth) {
        self.with_record(resource, |record| record.failures = 0);
    }

    /// Writing failed. Returns how often it had failed in a row before.
    pub fn failed(&self, resource: &McpServerAuth) -> u32 {
        self.with_record(resource, |record| {
            let before = record.failures;
            record.failures = before.saturating_add(1);
            before
        })
    }

    /// The resource was deleted.
    pub fn forget(&self, resource_ref: &ResourceRef) {
        self.0.lock().remove(resource_ref);
    }

    /// Others have written statuses since.
    pub fn forget_all(&self) {
        self.0.lock().clear();
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    fn with_record<T>(&self, resource: &McpServerAuth, act: impl FnOnce(&mut WriteRecord) -> T) -> T {
        let mut records = self.0.lock();
        let record = records.entry(ResourceRef::from(resource)).or_default();
        let uid = &resource.meta().uid;
        if record.uid != *uid {
            *record = WriteRecord {
                uid: uid.clone(),
                ..WriteRecord::default()
            };
        }
        act(record)
    }
}
