//! What was counted is of one Service port and of one backend alone.

use std::time::Instant;

use weft_abi::ServiceCounters;
use weft_model::services::ServicePortKey;

use super::{
    super::{CountReaders, Services, slots::REST},
    kernel::Kernel,
    plans::{key, plan, simple},
};

/// Connections of a Service, those that found no backend, and connections of its backends.
fn counted(kernel: &Kernel, services: &mut Services, of: &ServicePortKey) -> (u64, u64, Vec<u64>) {
    let mut readers = CountReaders {
        service_ports: Box::new(kernel.service_counters.clone()),
        backends: Box::new(kernel.backend_counters.clone()),
    };
    let found = services.read(&mut readers).unwrap().into_iter().find(|port| port.key == *of).unwrap();
    (found.connections, found.without_backend, found.internal.iter().map(|one| one.connections).collect())
}

/// The programs count something of all that there is.
fn count(kernel: &Kernel) {
    kernel.service_counters.0.lock().unwrap().fill(ServiceCounters { connections: 7, without_backend: 4 });
    kernel.backend_counters.0.lock().unwrap().fill(3);
}

#[test]
fn a_new_service_begins_at_zero_whoever_had_its_index_before() {
    let kernel = Kernel::large();
    let mut services = kernel.open();
    let mut now = Instant::now();
    services.replace(vec![(key(1), plan(1, &simple([1])))], now).unwrap();
    count(&kernel);
    assert_eq!(counted(&kernel, &mut services, &key(1)), (7, 4, vec![3]));
    services.change(vec![(key(1), None)], now).unwrap();
    now += REST;
    services.change(vec![(key(2), Some(plan(2, &simple([2]))))], now).unwrap();
    assert_eq!(counted(&kernel, &mut services, &key(2)), (0, 0, vec![0]));
}

#[test]
fn a_new_service_begins_at_zero_after_a_restart_and_one_that_stays_goes_on() {
    let kernel = Kernel::large();
    let mut services = kernel.open();
    let now = Instant::now();
    let (stays, goes) = ((key(1), plan(1, &simple([1]))), (key(2), plan(2, &simple([2]))));
    services.replace(vec![stays.clone(), goes], now).unwrap();
    count(&kernel);
    let mut services = kernel.open();
    services.replace(vec![stays.clone()], now).unwrap();
    services.change(vec![(key(3), Some(plan(3, &simple([3]))))], now + REST).unwrap();
    assert_eq!(counted(&kernel, &mut services, &key(1)), (7, 4, vec![3]));
    assert_eq!(counted(&kernel, &mut services, &key(3)), (0, 0, vec![0]));
}

/// A Service that changes keeps its index, and what was counted.
#[test]
fn what_was_counted_of_a_service_stays_while_it_changes() {
    let kernel = Kernel::large();
    let mut services = kernel.open();
    let now = Instant::now();
    services.replace(vec![(key(1), plan(1, &simple([1])))], now).unwrap();
    count(&kernel);
    services.change(vec![(key(1), Some(plan(1, &simple([1, 2]))))], now).unwrap();
    let (connections, without, _) = counted(&kernel, &mut services, &key(1));
    assert_eq!((connections, without), (7, 4));
}
