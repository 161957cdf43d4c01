//! The search walk, answered at its first step.

use hickory_proto::rr::RecordType;

use crate::support::Place;

#[test]
fn an_outside_name_is_found_at_the_first_question() {
    let place = Place::new(|zone| zone.hear_namespace(&crate::support::namespace("default")));
    place.outside.says("api.example.com.", RecordType::A, &["192.0.2.1"]);
    let pod = place.pod("127.0.0.2", "default", &[]);
    assert_eq!(
        pod.ask("api.example.com.default.svc.cluster.local.", "A"),
        [
            "api.example.com. 300 A 192.0.2.1",
            "api.example.com.default.svc.cluster.local. 5 CNAME api.example.com.",
        ]
    );
    assert_eq!(place.outside.asked(), ["api.example.com. A"]);
}
