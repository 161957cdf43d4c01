//! The client processes that other tests start.

#[test]
#[ignore = "a process that other tests start inside a Pod, a node or the host outside"]
fn client() {
    weft_tests::client::main();
}
