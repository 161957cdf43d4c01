//! What a change costs, and what becomes of it where there is no room or another has it.

use std::time::Instant;

use super::{
    super::*,
    kernel::Kernel,
    plans::{Sketch, backend, key, plan, simple},
};
use crate::encode;

#[test]
fn one_endpoint_more_costs_one_endpoint() {
    let kernel = Kernel::new(1024, 1 << 15, 16_384);
    let mut services = kernel.open();
    let now = Instant::now();
    let plans = (0..200).map(|service| (key(service), plan(service, &simple(0..9)))).collect();
    services.replace(plans, now).unwrap();
    kernel.take_writes();
    services.change(vec![(key(7), Some(plan(7, &simple(0..10))))], now).unwrap();
    // The backend, its slot, and the list's length.
    assert_eq!(kernel.take_writes(), 3);
    services.change(vec![(key(7), Some(plan(7, &simple((0..4).chain(5..10)))))], now).unwrap();
    // The slot of the one that goes, and the length; the backend stays, for others list it.
    assert_eq!(kernel.take_writes(), 2);
}

#[test]
fn a_backend_that_nobody_lists_is_gone_and_its_entry_is_another_s_only_after_a_rest() {
    let kernel = Kernel::large();
    let mut services = kernel.open();
    let now = Instant::now();
    services.replace(vec![(key(1), plan(1, &simple([1, 2])))], now).unwrap();
    let before = kernel.backends.0.lock().unwrap().clone();
    services.change(vec![(key(1), Some(plan(1, &simple([2]))))], now).unwrap();
    let gone = services.take_gone();
    assert_eq!(gone.len(), 1);
    let entry = kernel.backends.0.lock().unwrap()[gone[0].index as usize];
    assert_eq!(entry.flags, 0);
    assert_eq!(entry.generation, before[gone[0].index as usize].generation + 1);
    services.change(vec![(key(1), Some(plan(1, &simple([2, 3]))))], now).unwrap();
    assert_eq!(kernel.backends.0.lock().unwrap()[gone[0].index as usize], entry);
    let later = now + slots::REST;
    services.change(vec![(key(1), Some(plan(1, &simple([2, 3, 4]))))], later).unwrap();
    let entry = kernel.backends.0.lock().unwrap()[gone[0].index as usize];
    assert_eq!(encode::backend_key(&entry).unwrap().0, backend(4));
}

#[test]
fn full_tables_refuse_what_is_new_keep_what_is_served_and_take_it_in_once_there_is_room() {
    let kernel = Kernel::new(2, 8, 4);
    let mut services = kernel.open();
    let now = Instant::now();
    services.replace(vec![(key(1), plan(1, &simple([1, 2])))], now).unwrap();
    let served = kernel.behaviour();
    let too_many = services.change(vec![(key(2), Some(plan(2, &simple(3..9))))], now).unwrap();
    assert_eq!(too_many.refused, [(key(2), Refused::Full("backends"))]);
    assert_eq!(kernel.behaviour(), served);
    // What is refused as a change stays as it was.
    let grown = services.change(vec![(key(1), Some(plan(1, &simple(1..9))))], now).unwrap();
    assert_eq!(grown.refused.len(), 2);
    assert_eq!(kernel.behaviour(), served);
    let fewer = vec![(key(1), None), (key(2), Some(plan(2, &simple(3..5))))];
    assert_eq!(services.change(fewer, now).unwrap().refused, []);
    assert_eq!(kernel.behaviour().len(), 2);
    let third = vec![(key(3), Some(plan(3, &simple([3])))), (key(4), Some(plan(4, &simple([4]))))];
    assert_eq!(services.change(third, now).unwrap().refused, [(key(4), Refused::Full("Service ports"))]);
    services.change(vec![(key(3), None)], now).unwrap();
    // What one change gives back, the next one takes.
    assert_eq!(services.change(Vec::new(), now).unwrap().refused, []);
    assert_eq!(kernel.behaviour().len(), 4);
}

#[test]
fn backends_that_change_places_while_the_table_is_full_are_refused_and_taken_once_the_old_are_gone() {
    let kernel = Kernel::new(2, 8, 2);
    let mut services = kernel.open();
    let now = Instant::now();
    services.replace(vec![(key(1), plan(1, &simple([1, 2])))], now).unwrap();
    let served = kernel.behaviour();
    let others = vec![(key(1), Some(plan(1, &simple([3, 4]))))];
    let refused = services.change(others, now).unwrap().refused;
    assert_eq!(refused, [(key(1), Refused::Full("backends"))]);
    assert_eq!(kernel.behaviour(), served);
    services.change(vec![(key(1), None)], now).unwrap();
    let later = now + slots::REST;
    services.change(vec![(key(1), Some(plan(1, &simple([3, 4]))))], later).unwrap();
    assert_eq!(kernel.behaviour().len(), served.len());
}

#[test]
fn of_two_that_want_the_same_frontend_the_first_by_name_has_it() {
    let shared = Sketch { kinds: [3].into(), shared_address: true, ..simple([1]) };
    let kernel = Kernel::large();
    let mut services = kernel.open();
    let now = Instant::now();
    let owner = |kernel: &Kernel, services: &Services| {
        let index = kernel.frontends.0.lock().unwrap().values().next().unwrap().service_port;
        let found = services
            .installed
            .iter()
            .find(|(_, port)| port.external.is_some_and(|entry| entry.index == index));
        found.unwrap().0.clone()
    };
    services.replace(vec![(key(2), plan(2, &shared))], now).unwrap();
    let written = services.change(vec![(key(1), Some(plan(1, &shared)))], now).unwrap();
    assert_eq!(owner(&kernel, &services), key(1));
    assert!(
        matches!(&written.refused[..], [(loser, Refused::Taken { by, .. })] if *loser == key(2) && **by == key(1))
    );
    let written = services.change(vec![(key(1), None)], now).unwrap();
    assert_eq!(owner(&kernel, &services), key(2));
    assert_eq!(written.refused, []);
}
