//! The agent and the plugin as processes, which can be killed. Real kernel, real API server; needs root.
//!
//! This program is all three: a test that starts itself again as the agent or as the plugin.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "tests")]

mod chaos;
mod dns;
mod node;
mod serves;
mod services;
#[path = "../support/mod.rs"]
mod support;

use std::{panic, process::ExitCode};

use clap::Parser;

const TESTS: &[(&str, fn())] = &[
    ("a_node_becomes_ready_and_serves", serves::a_node_becomes_ready_and_serves),
    ("the_configuration_is_written_last", serves::the_configuration_is_written_last),
    ("a_terminated_agent_leaves_everything_in_place", serves::a_terminated_agent_leaves_everything_in_place),
    ("a_killed_agent_fails_no_request", serves::a_killed_agent_fails_no_request),
    ("an_api_server_that_is_away_or_refuses", serves::an_api_server_that_is_away_or_refuses),
    ("an_api_server_that_is_away_is_told_of_once", serves::an_api_server_that_is_away_is_told_of_once),
    ("probes_between_a_pod_and_the_node", serves::probes_between_a_pod_and_the_node),
    ("a_second_agent_is_refused", serves::a_second_agent_is_refused),
    ("services_and_endpoints_reach_the_kernel", services::services_and_endpoints_reach_the_kernel),
    (
        "an_agent_that_knows_nothing_yet_removes_nothing",
        services::an_agent_that_knows_nothing_yet_removes_nothing,
    ),
    (
        "killed_during_churn_the_kernel_comes_to_the_plan",
        services::killed_during_churn_the_kernel_comes_to_the_plan,
    ),
    ("health_check_ports_open_count_and_close", services::health_check_ports_open_count_and_close),
    (
        "a_health_check_port_in_use_is_told_and_waited_for",
        services::a_health_check_port_in_use_is_told_and_waited_for,
    ),
    (
        "healthz_is_for_load_balancers_and_livez_for_restarts",
        services::healthz_is_for_load_balancers_and_livez_for_restarts,
    ),
    ("an_address_of_two_services_is_told", services::an_address_of_two_services_is_told),
    (
        "slow_clients_of_the_health_port_lock_nobody_out",
        services::slow_clients_of_the_health_port_lock_nobody_out,
    ),
    (
        "external_addresses_that_are_somebodys_are_told",
        services::external_addresses_that_are_somebodys_are_told,
    ),
    ("names_follow_the_api", dns::names_follow_the_api),
    ("settings_of_dns_take_effect_or_are_told", dns::settings_of_dns_take_effect_or_are_told),
    ("before_all_names_are_known_none_is_denied", dns::before_all_names_are_known_none_is_denied),
    (
        "without_the_api_an_agent_that_starts_answers_what_was_known",
        dns::without_the_api_an_agent_that_starts_answers_what_was_known,
    ),
    (
        "names_that_were_kept_and_do_not_read_are_left_out",
        dns::names_that_were_kept_and_do_not_read_are_left_out,
    ),
    ("ranges_and_the_dns_service_are_found_and_made", dns::ranges_and_the_dns_service_are_found_and_made),
    ("without_a_dns_address_nobody_listens", dns::without_a_dns_address_nobody_listens),
    ("killed_at_random_nothing_leaks", chaos::killed_at_random_nothing_leaks),
];

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    options: weft_agent::Options,
}

fn main() -> ExitCode {
    match std::env::var(node::ROLE).as_deref() {
        Ok("agent") => run_agent(),
        Ok("plugin") => weft_cni::plugin::run(
            |name| std::env::var_os(name),
            &mut std::io::stdin().lock(),
            &mut std::io::stdout().lock(),
        ),
        _ => run_tests(),
    }
}

fn run_agent() -> ExitCode {
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    let command = Command::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let ended = runtime.block_on(async {
        let end = weft_agent::asked_to_end().unwrap();
        weft_agent::run(command.options, end).await
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_tests() -> ExitCode {
    let has = |flag: &str| std::env::args().any(|argument| argument == flag);
    // As test runners ask for it; none of these is ignored.
    if has("--list") {
        let listed = TESTS.iter().filter(|_| !has("--ignored"));
        listed.for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let filters: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let fits = |name: &str, filter: &String| {
        if has("--exact") { name == filter } else { name.contains(filter.as_str()) }
    };
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|filter| fits(name, filter));
    let mut failed = Vec::new();
    for (name, test) in TESTS.iter().filter(|(name, _)| wanted(name)) {
        let passed = panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            failed.push(*name);
        }
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("failed: {}", failed.join(", "));
    ExitCode::FAILURE
}
