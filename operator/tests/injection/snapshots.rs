//! Each pod after the decision, as its snapshot shows it: what `mcp-auth-operator inject` prints. A new file in `testdata` needs no
//! code.

use crate::input::Input;

#[test]
fn every_pod_comes_out_as_its_snapshot() {
    insta::glob!("testdata/*.yaml", |path| {
        let printed = Input::read(path).preview().text();
        insta::with_settings!({
            omit_expression => true,
            prepend_module_to_snapshot => false,
            snapshot_path => "testdata/snapshots",
        }, {
            insta::assert_snapshot!("pod", printed);
        });
    });
}
