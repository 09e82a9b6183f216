//! Properties that a socket was bound to before `connect()`.

use core::ptr::{addr_of, read_volatile};

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::programs::SockAddrContext;
use mesh_common::addr::{self, Addr};

use crate::ctx::field;

/// The network device that the socket is bound to (`SO_BINDTODEVICE`); 0: any.
#[inline(always)]
pub(crate) fn device(ctx: &SockAddrContext) -> u32 {
    let sk: *mut bpf_sock = field!(ctx.sock_addr, __bindgen_anon_1.sk);
    field!(sk, bound_dev_if)
}

/// The address that an IPv4 socket is bound to, or that it had for an earlier connection; zeros: none.
#[inline(always)]
pub(crate) fn v4(ctx: &SockAddrContext) -> Addr {
    let sk: *mut bpf_sock = field!(ctx.sock_addr, __bindgen_anon_1.sk);
    addr::from_v4_be(field!(sk, src_ip4))
}

/// The same of an IPv6 socket.
#[inline(always)]
pub(crate) fn v6(ctx: &SockAddrContext) -> Addr {
    let sk: *mut bpf_sock = field!(ctx.sock_addr, __bindgen_anon_1.sk);
    [field!(sk, src_ip6[0]), field!(sk, src_ip6[1]), field!(sk, src_ip6[2]), field!(sk, src_ip6[3])]
}

/// The port that the socket is bound to, host byte order; 0: none yet.
#[inline(always)]
pub(crate) fn source_port(ctx: &SockAddrContext) -> u32 {
    let sk: *mut bpf_sock = field!(ctx.sock_addr, __bindgen_anon_1.sk);
    field!(sk, src_port)
}
