//! What the hooks jump to for the packets of Services: a program a step, so that the hooks stay small and each of these has the
//! stack and the verifier's patience for itself.

use aya_ebpf::{macros::classifier, programs::TcContext};

use crate::steps::service::{enter, error, flow, neighbour, refuse, request, socket};

/// [`weft_abi::Step::Flow`].
#[classifier]
pub fn service_flow(ctx: TcContext) -> i32 {
    flow::packet(&ctx).0
}

/// [`weft_abi::Step::Request`].
#[classifier]
pub fn service_request(ctx: TcContext) -> i32 {
    request::packet(&ctx).0
}

/// [`weft_abi::Step::Enter`].
#[classifier]
pub fn service_enter(ctx: TcContext) -> i32 {
    enter::packet(&ctx).0
}

/// [`weft_abi::Step::Error`].
#[classifier]
pub fn service_error(ctx: TcContext) -> i32 {
    error::packet(&ctx).0
}

/// [`weft_abi::Step::Refuse`].
#[classifier]
pub fn service_refuse(ctx: TcContext) -> i32 {
    refuse::packet(&ctx).0
}

/// [`weft_abi::Step::Neighbour`].
#[classifier]
pub fn service_neighbour(ctx: TcContext) -> i32 {
    neighbour::packet(&ctx).0
}

/// [`weft_abi::Step::Socket`].
#[classifier]
pub fn service_socket(ctx: TcContext) -> i32 {
    socket::packet(&ctx).0
}
