//! Any sequence of changes, and any number of restarts in between, leaves the kernel as one fresh start would.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use weft_abi::Backend;
use weft_model::{
    Protocol,
    services::{ServicePortKey, ServicePortPlan},
};

use super::{
    super::*,
    kernel::Kernel,
    plans::{NODE, Sketch, backend, key, plan, simple, sketch},
};

#[derive(Clone, Debug)]
enum Step {
    Change(Vec<(u8, Option<Sketch>)>),
    /// After so many writes the kernel has no memory for more; the agent then says everything again.
    Failure(usize, Vec<(u8, Option<Sketch>)>),
    /// The process ends and another starts; this is what has changed meanwhile.
    Restart(Vec<(u8, Option<Sketch>)>),
    Pause,
}

fn step() -> impl Strategy<Value = Step> {
    let changes = || proptest::collection::vec((0_u8..6, proptest::option::weighted(0.8, sketch())), 0..4);
    prop_oneof![
        5 => changes().prop_map(Step::Change),
        1 => changes().prop_map(Step::Restart),
        1 => (0_usize..12, changes()).prop_map(|(allowed, changes)| Step::Failure(allowed, changes)),
        1 => Just(Step::Pause),
    ]
}

proptest! {
    #[test]
    fn any_sequence_of_changes_and_restarts_ends_as_a_fresh_start(
        steps in proptest::collection::vec(step(), 1..12),
    ) {
        let kernel = Kernel::large();
        let mut services = kernel.open();
        let mut now = Instant::now();
        services.replace(Vec::new(), now).unwrap();
        let mut wanted: BTreeMap<ServicePortKey, ServicePortPlan> = BTreeMap::new();
        let mut failed = false;
        for step in steps.into_iter().chain([Step::Change(Vec::new())]) {
            now += Duration::from_millis(100);
            let restart = matches!(step, Step::Restart(_));
            let allowed = if let Step::Failure(allowed, _) = step { Some(allowed) } else { None };
            match step {
                Step::Pause => now += slots::REST,
                Step::Change(changes) | Step::Restart(changes) | Step::Failure(_, changes) => {
                    let changes: Vec<_> = changes
                        .into_iter()
                        .map(|(service, sketch)| (key(service), sketch.map(|sketch| plan(service, &sketch))))
                        .collect();
                    for (key, plan) in &changes {
                        match plan {
                            Some(plan) => drop(wanted.insert(key.clone(), plan.clone())),
                            None => drop(wanted.remove(key)),
                        }
                    }
                    if restart {
                        services = kernel.open();
                    }
                    *kernel.writes.allowed.lock().unwrap() = allowed;
                    let done = if failed || restart {
                        services.replace(wanted.clone().into_iter().collect(), now)
                    } else {
                        services.change(changes, now)
                    };
                    *kernel.writes.allowed.lock().unwrap() = None;
                    prop_assert!(done.is_ok() || allowed.is_some());
                    failed = done.is_err();
                }
            }
            if failed {
                // Until it is said again, which may be something else by then.
                continue;
            }
            let fresh = Kernel::large();
            fresh.open().replace(wanted.clone().into_iter().collect(), now).unwrap();
            prop_assert_eq!(kernel.behaviour(), fresh.behaviour());
            // Nothing is kept that nobody lists.
            let live = |kernel: &Kernel| {
                let backends = kernel.backends.0.lock().unwrap();
                backends.iter().filter(|entry| entry.flags & Backend::LIVE != 0).count()
            };
            prop_assert_eq!(live(&kernel), live(&fresh));
        }
        // A restart that finds nothing changed writes nothing (but the entry of a Service port that no frontend leads to, since
        // another has them all: nothing tells whose it was).
        if services.not_served().is_empty() {
            kernel.take_writes();
            let written = kernel.open().replace(wanted.into_iter().collect(), now).unwrap();
            prop_assert_eq!(written.written, Written::default());
            prop_assert_eq!(kernel.take_writes(), 0);
        }
    }
}

#[test]
fn nothing_is_removed_before_a_whole_list_is_known() {
    let kernel = Kernel::large();
    kernel.open().replace(vec![(key(1), plan(1, &simple([1])))], Instant::now()).unwrap();
    let served = kernel.behaviour();
    let mut services = kernel.open();
    services.change(Vec::new(), Instant::now()).unwrap();
    assert_eq!(kernel.behaviour(), served);
    let mapping = weft_model::PortMapping {
        host_ip: None,
        host_port: 8080,
        container_port: 80,
        protocol: Protocol::Tcp,
    };
    let (port, mapped) = host_port_plan(&mapping, backend(9).address, &[NODE]).unwrap();
    services.change(vec![(port.clone(), Some(mapped))], Instant::now()).unwrap();
    assert_eq!(kernel.behaviour().len(), served.len() + 1);
    // Ports of the node outlive both a restart and a whole list of Services.
    let mut services = kernel.open();
    services.replace(Vec::new(), Instant::now()).unwrap();
    assert_eq!(kernel.behaviour().len(), 1);
    services.change(vec![(port, None)], Instant::now()).unwrap();
    assert!(kernel.behaviour().is_empty());
}

/// A4: an address and port has one owner, and ports of Pods come after those of Services.
#[test]
fn a_service_has_a_port_that_a_pod_wants_too_and_the_pod_has_it_again_when_it_goes() {
    let kernel = Kernel::large();
    let mut services = kernel.open();
    services.replace(Vec::new(), Instant::now()).unwrap();
    let mapping = weft_model::PortMapping {
        host_ip: None,
        host_port: 30_001,
        container_port: 80,
        protocol: Protocol::Tcp,
    };
    let (port, mapped) = host_port_plan(&mapping, backend(9).address, &[NODE]).unwrap();
    let of_pod = |services: &mut Services, plan: Option<ServicePortPlan>| {
        services.change(vec![(port.clone(), plan)], Instant::now()).unwrap().refused
    };
    let node_port = || Sketch { kinds: [1].into(), ..simple([1]) };
    assert_eq!(of_pod(&mut services, Some(mapped.clone())), []);
    let alone = kernel.behaviour();
    let written = services.change(vec![(key(1), Some(plan(1, &node_port())))], Instant::now()).unwrap();
    assert!(
        matches!(&written.refused[..], [(who, Refused::Taken { by, .. })] if *who == port && **by == key(1))
    );
    services.change(vec![(key(1), None)], Instant::now()).unwrap();
    assert_eq!(kernel.behaviour(), alone);
    // Whoever comes first makes no difference.
    of_pod(&mut services, None);
    services.change(vec![(key(1), Some(plan(1, &node_port())))], Instant::now()).unwrap();
    assert_eq!(of_pod(&mut services, Some(mapped)).len(), 1);
}
