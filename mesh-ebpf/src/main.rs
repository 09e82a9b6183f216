//! The kernel side of the mesh: one object, one file a hook.
//!
//! Each hook reads the context, asks a pure function of `mesh-common`, and writes the context.
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics))]
#![cfg_attr(target_arch = "bpf", expect(internal_features, reason = "see `atomic`"))]
#![expect(unsafe_code, reason = "helpers, maps and context fields are raw; see ARCHITECTURE.md")]
#![expect(clippy::inline_always, reason = "a BPF call takes five registers and no context fields")]

mod accel;
mod agent;
mod atomic;
mod bind;
mod bound;
mod connect;
mod ctx;
mod events;
mod inbound;
mod lookup;
mod maps;
mod observe;
mod owner;
mod peername;
mod places;
mod sockname;
mod sockops;
mod summary;

use aya_ebpf::macros::{
    btf_tracepoint, cgroup_sock, cgroup_sock_addr, cgroup_sockopt, sk_lookup, sk_msg, sock_ops,
};
use aya_ebpf::programs::{
    BtfTracePointContext, SkLookupContext, SkMsgContext, SockAddrContext, SockContext,
    SockOpsContext, SockoptContext,
};

/// Runs on every IPv4 `connect()` below the agent's cgroup.
#[cgroup_sock_addr(connect4)]
fn mesh_connect4(ctx: SockAddrContext) -> i32 {
    connect::v4(&ctx)
}

/// Runs on every IPv6 `connect()` below the agent's cgroup; also for v4-mapped addresses.
#[cgroup_sock_addr(connect6)]
fn mesh_connect6(ctx: SockAddrContext) -> i32 {
    connect::v6(&ctx)
}

/// Runs when an application asks who is at the other end, and when it accepts.
#[cgroup_sock_addr(getpeername4)]
fn mesh_peername4(ctx: SockAddrContext) -> i32 {
    peername::v4(&ctx)
}

/// The same for IPv6 sockets.
#[cgroup_sock_addr(getpeername6)]
fn mesh_peername6(ctx: SockAddrContext) -> i32 {
    peername::v6(&ctx)
}

/// Runs when an application asks for its own address.
#[cgroup_sock_addr(getsockname4)]
fn mesh_sockname4(ctx: SockAddrContext) -> i32 {
    sockname::v4(&ctx)
}

/// The same for IPv6 sockets.
#[cgroup_sock_addr(getsockname6)]
fn mesh_sockname6(ctx: SockAddrContext) -> i32 {
    sockname::v6(&ctx)
}

/// Runs when a TCP connection is opened, when one is established, and when a direct one ends.
#[sock_ops]
fn mesh_sockops(ctx: SockOpsContext) -> u32 {
    sockops::run(&ctx);
    // The return value is not looked at for the two operations that are handled; 0 for the others
    // means "no opinion" (for example on the initial time-out).
    0
}

/// The observer: runs on the same occasions as `mesh_sockops`, for every cgroup of the machine.
#[sock_ops]
fn mesh_observe(ctx: SockOpsContext) -> u32 {
    observe::connection(&ctx);
    0
}

/// The observer: runs when a socket is made, in every cgroup of the machine.
#[cgroup_sock(sock_create)]
fn mesh_observe_made(ctx: SockContext) -> i32 {
    observe::made(&ctx);
    1
}

/// Runs when a socket of IPv4 has been given a port.
#[cgroup_sock(post_bind4)]
fn mesh_bind4(ctx: SockContext) -> i32 {
    i32::from(bind::may(&ctx))
}

/// Runs when a socket of IPv6 has been given a port.
#[cgroup_sock(post_bind6)]
fn mesh_bind6(ctx: SockContext) -> i32 {
    i32::from(bind::may(&ctx))
}

/// Runs when a connection arrives in the workload's namespace, before anything listens.
#[sk_lookup]
fn mesh_inbound(ctx: SkLookupContext) -> u32 {
    inbound::run(&ctx)
}

/// Runs when an accelerated socket sends.
#[sk_msg]
fn mesh_skmsg(ctx: SkMsgContext) -> u32 {
    accel::send(&ctx)
}

/// Runs when somebody has read from a socket of this machine.
#[btf_tracepoint(function = "sock_recv_length")]
fn mesh_recv(ctx: BtfTracePointContext) -> i32 {
    accel::received(&ctx);
    0
}

/// Runs when a socket of this machine is reset by its other end.
#[btf_tracepoint(function = "tcp_receive_reset")]
fn mesh_reset(ctx: BtfTracePointContext) -> i32 {
    sockops::was_reset(&ctx);
    0
}

/// Runs when a cgroup has been made, before a process can be in it.
#[btf_tracepoint(function = "cgroup_mkdir")]
fn mesh_cgroup_made(ctx: BtfTracePointContext) -> i32 {
    places::made(&ctx);
    0
}

/// Runs when a cgroup has been removed.
#[btf_tracepoint(function = "cgroup_rmdir")]
fn mesh_cgroup_removed(ctx: BtfTracePointContext) -> i32 {
    places::removed(&ctx);
    0
}

/// Runs on every `setsockopt()` below the agent's cgroup.
#[cgroup_sockopt(setsockopt)]
fn mesh_setsockopt(ctx: SockoptContext) -> i32 {
    i32::from(accel::may_set(&ctx))
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The license that lets the programs use the kernel's GPL-only helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
