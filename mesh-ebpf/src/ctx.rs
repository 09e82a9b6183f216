//! The only file that reads and writes raw context memory.

use core::ffi::c_void;
use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, BPF_SOCK_OPS_STATE_CB_FLAG, bpf_sock};
use aya_ebpf::btf_maps::SockHash;
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_sk_storage_get, bpf_skc_to_mptcp_sock, bpf_sock_ops_cb_flags_set,
};
use aya_ebpf::programs::{
    SkLookupContext, SkMsgContext, SockAddrContext, SockContext, SockOpsContext, SockoptContext,
};
use mesh_common::addr::{self, Addr};
use mesh_common::coverage::CoverKey;
use mesh_common::maps::{ListenerKey, MAX_LISTENERS};
use mesh_common::record::Record;

use crate::maps::{OBSERVED, SOCKETS};

/// `AF_INET`.
const AF_INET: u32 = 2;

/// Reads one field of a context by itself: merged loads do not pass the verifier.
macro_rules! field {
    ($context:expr, $($path:tt)+) => {
        // SAFETY: the verifier checks every access to the context.
        unsafe { read_volatile(addr_of!((*$context).$($path)+)) }
    };
}

pub(crate) use field;

/// Writes one field of a context by itself.
macro_rules! set_field {
    ($context:expr, $value:expr, $($path:tt)+) => {
        // SAFETY: the verifier checks every access to the context.
        unsafe { write_volatile(addr_of_mut!((*$context).$($path)+), $value) }
    };
}

/// The address of an IPv4 `sockaddr`.
#[inline(always)]
pub(crate) fn v4(ctx: &SockAddrContext) -> Addr {
    addr::from_v4_be(field!(ctx.sock_addr, user_ip4))
}

/// The address of an IPv6 `sockaddr`.
#[inline(always)]
pub(crate) fn v6(ctx: &SockAddrContext) -> Addr {
    [
        field!(ctx.sock_addr, user_ip6[0]),
        field!(ctx.sock_addr, user_ip6[1]),
        field!(ctx.sock_addr, user_ip6[2]),
        field!(ctx.sock_addr, user_ip6[3]),
    ]
}

/// The port of a `sockaddr`, network byte order.
#[inline(always)]
pub(crate) fn port_be(ctx: &SockAddrContext) -> u16 {
    (field!(ctx.sock_addr, user_port) & 0xffff) as u16
}

/// The socket's protocol, `IPPROTO_…`.
#[inline(always)]
pub(crate) fn protocol(ctx: &SockAddrContext) -> u32 {
    field!(ctx.sock_addr, protocol)
}

/// Replaces the address of an IPv4 `sockaddr`.
#[inline(always)]
pub(crate) fn set_v4(ctx: &SockAddrContext, addr_be: u32, port_be: u16) {
    set_field!(ctx.sock_addr, addr_be, user_ip4);
    set_field!(ctx.sock_addr, u32::from(port_be), user_port);
}

/// Replaces the address of an IPv6 `sockaddr`.
#[inline(always)]
pub(crate) fn set_v6(ctx: &SockAddrContext, addr: Addr, port_be: u16) {
    let [a, b, c, d] = addr;
    set_field!(ctx.sock_addr, a, user_ip6[0]);
    set_field!(ctx.sock_addr, b, user_ip6[1]);
    set_field!(ctx.sock_addr, c, user_ip6[2]);
    set_field!(ctx.sock_addr, d, user_ip6[3]);
    set_field!(ctx.sock_addr, u32::from(port_be), user_port);
}

/// The cookie of the socket's network namespace.
#[inline(always)]
pub(crate) fn netns(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the helper takes the hook's own context.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// The record of the socket, if any.
#[inline(always)]
pub(crate) fn record(ctx: &SockAddrContext) -> Option<Record> {
    // SAFETY: the helper looks the socket of the hook's own context up.
    let found = unsafe { SOCKETS.get_ptr_mut(ctx) };
    if found.is_null() {
        return None;
    }
    // SAFETY: not null, and the storage lives as long as the socket.
    Some(unsafe { *found })
}

/// The role that is remembered of the socket; 0 if none is.
#[inline(always)]
pub(crate) fn role(ctx: &SockAddrContext) -> u32 {
    record(ctx).map_or(0, |record| record.role)
}

/// Remembers `record` of the socket. False: the kernel has no memory for it.
#[inline(always)]
pub(crate) fn remember(ctx: &SockAddrContext, record: &mut Record) -> bool {
    // SAFETY: the helper takes the socket of the hook's own context, and copies the value.
    let kept = unsafe { SOCKETS.get_or_insert_ptr_mut(ctx, Some(&mut *record)) };
    if kept.is_null() {
        return false;
    }
    // SAFETY: not null, and the storage lives as long as the socket. The entry of an earlier connect() on
    // the same socket left is replaced.
    unsafe {
        *kept = *record;
    }
    // The application of a connection by MPTCP has another socket, which it asks for addresses.
    let whole = multipath(field!(ctx.sock_addr, __bindgen_anon_1.sk));
    if !whole.is_null() {
        // SAFETY: a socket, checked above; the helper copies the value.
        let kept = unsafe {
            bpf_sk_storage_get(
                addr_of!(SOCKETS).cast_mut().cast(),
                whole,
                core::ptr::from_mut(record).cast(),
                BPF_SK_STORAGE_GET_F_CREATE.into(),
            )
        };
        let kept: *mut Record = kept.cast();
        // SAFETY: null, or the storage of the socket. Without memory it has its addresses.
        if let Some(kept) = unsafe { kept.as_mut() } {
            *kept = *record;
        }
    }
    true
}

/// Set by the agent: the kernel has `bpf_skc_to_mptcp_sock` (Linux 5.19).
#[unsafe(no_mangle)]
static KNOWS_MPTCP: u8 = 1;

/// The socket of an application whose connection by MPTCP `sk` is a part of; null: it is none.
#[inline(always)]
pub(crate) fn multipath(sk: *mut bpf_sock) -> *mut c_void {
    // SAFETY: a static of this object. Volatile, because the agent changes it before it is loaded.
    if unsafe { read_volatile(addr_of!(KNOWS_MPTCP)) } == 0 {
        return core::ptr::null_mut();
    }
    // SAFETY: the socket of the hook's own context.
    unsafe { bpf_skc_to_mptcp_sock(sk.cast()) }.cast()
}

/// Forgets what is remembered of the socket.
#[inline(always)]
pub(crate) fn forget(ctx: &SockAddrContext) {
    let sk: *mut bpf_sock = field!(ctx.sock_addr, __bindgen_anon_1.sk);
    let whole = multipath(sk);
    if !whole.is_null() {
        // SAFETY: a socket, checked above. A missing entry is no error.
        let _nothing_there: Result<(), i32> = unsafe { SOCKETS.delete(whole.cast()) };
    }
    // SAFETY: the socket of the hook's own context. A missing entry is no error.
    let _nothing_there: Result<(), i32> = unsafe { SOCKETS.delete(sk) };
}

/// One end of a connection, as `sock_ops` sees it.
#[derive(Clone, Copy)]
pub(crate) struct End {
    pub(crate) addr: Addr,
    pub(crate) port_be: u16,
}

/// The end on this side.
#[inline(always)]
pub(crate) fn local(ctx: &SockOpsContext) -> End {
    // All words are read whatever the family is: a choice between two reads would be compiled into
    // one read from a chosen pointer, which the verifier refuses.
    let v4 = field!(ctx.ops, local_ip4);
    let v6 = [
        field!(ctx.ops, local_ip6[0]),
        field!(ctx.ops, local_ip6[1]),
        field!(ctx.ops, local_ip6[2]),
        field!(ctx.ops, local_ip6[3]),
    ];
    let addr = if field!(ctx.ops, family) == AF_INET { addr::from_v4_be(v4) } else { v6 };
    // `local_port` is in host byte order.
    End { addr, port_be: ((field!(ctx.ops, local_port) & 0xffff) as u16).to_be() }
}

/// The end on the other side.
#[inline(always)]
pub(crate) fn remote(ctx: &SockOpsContext) -> End {
    // As in `local`.
    let v4 = field!(ctx.ops, remote_ip4);
    let v6 = [
        field!(ctx.ops, remote_ip6[0]),
        field!(ctx.ops, remote_ip6[1]),
        field!(ctx.ops, remote_ip6[2]),
        field!(ctx.ops, remote_ip6[3]),
    ];
    let addr = if field!(ctx.ops, family) == AF_INET { addr::from_v4_be(v4) } else { v6 };
    // `remote_port` is in network byte order, in the upper half of a big-endian word.
    End { addr, port_be: ((u32::from_be(field!(ctx.ops, remote_port)) & 0xffff) as u16).to_be() }
}

/// The operation, `BPF_SOCK_OPS_…`.
#[inline(always)]
pub(crate) fn op(ctx: &SockOpsContext) -> u32 {
    field!(ctx.ops, op)
}

/// The cookie of the socket's network namespace.
#[inline(always)]
pub(crate) fn ops_netns(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the helper takes the hook's own context.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// The socket of the hook; null if it is not a full one.
#[inline(always)]
pub(crate) fn ops_sk(ctx: &SockOpsContext) -> *mut bpf_sock {
    field!(ctx.ops, __bindgen_anon_2.sk)
}

/// Whether the socket, just established, has sent any data: with its SYN, that is.
#[inline(always)]
pub(crate) fn has_sent(ctx: &SockOpsContext) -> bool {
    // The SYN takes one sequence number.
    bytes_acked(ctx) > 1 || field!(ctx.ops, snd_una) != field!(ctx.ops, snd_nxt)
}

/// The payload of the packet that is about to be sent: 0 for an acknowledgement, and where the kernel
/// asks only how long the header will be.
#[inline(always)]
pub(crate) fn packet_size(ctx: &SockOpsContext) -> u32 {
    field!(ctx.ops, skb_len)
}

/// The record of the socket. It lives as long as the socket: longer than the program runs.
#[inline(always)]
pub(crate) fn ops_record(ctx: &SockOpsContext) -> Option<&'static mut Record> {
    let sk: *mut bpf_sock = field!(ctx.ops, __bindgen_anon_2.sk);
    if sk.is_null() {
        return None;
    }
    // SAFETY: a full socket, checked above; without the flag the helper only looks up.
    let found = unsafe {
        bpf_sk_storage_get(addr_of!(SOCKETS).cast_mut().cast(), sk.cast(), core::ptr::null_mut(), 0)
    };
    let found: *mut Record = found.cast();
    // SAFETY: null, or the storage of the socket.
    unsafe { found.as_mut() }
}

/// Remembers `record` of the socket. False: the kernel has no memory for it.
#[inline(always)]
pub(crate) fn ops_remember(ctx: &SockOpsContext, record: &mut Record) -> bool {
    let sk: *mut bpf_sock = field!(ctx.ops, __bindgen_anon_2.sk);
    if sk.is_null() {
        return false;
    }
    // SAFETY: a full socket, checked above; the helper copies the value.
    let kept = unsafe {
        bpf_sk_storage_get(
            addr_of!(SOCKETS).cast_mut().cast(),
            sk.cast(),
            core::ptr::from_mut(record).cast(),
            BPF_SK_STORAGE_GET_F_CREATE.into(),
        )
    };
    !kept.is_null()
}

/// The record of a socket that a tracepoint is about.
#[inline(always)]
pub(crate) fn traced_record(sk: *mut c_void) -> Option<&'static mut Record> {
    // SAFETY: the verifier knows the socket; without the flag the helper only looks up.
    let found = unsafe {
        bpf_sk_storage_get(addr_of!(SOCKETS).cast_mut().cast(), sk, core::ptr::null_mut(), 0)
    };
    let found: *mut Record = found.cast();
    // SAFETY: null, or the storage of the socket.
    unsafe { found.as_mut() }
}

/// The kind of the socket that is made (`SOCK_…`), and its protocol (`IPPROTO_…`).
#[inline(always)]
pub(crate) fn made(ctx: &SockContext) -> (u32, u32) {
    (field!(ctx.sock, type_), field!(ctx.sock, protocol))
}

/// The cookie of the network namespace in which it is made.
#[inline(always)]
pub(crate) fn made_netns(ctx: &SockContext) -> u64 {
    // SAFETY: the helper takes the hook's own context.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// Notes for the observer how the connection of a socket goes. Without memory it is not counted.
#[inline(always)]
pub(crate) fn observe(ctx: &SockOpsContext, key: &mut CoverKey) {
    let sk: *mut bpf_sock = field!(ctx.ops, __bindgen_anon_2.sk);
    if sk.is_null() {
        return;
    }
    let wanted = *key;
    // SAFETY: a full socket, checked above; the helper copies the value.
    let kept = unsafe {
        bpf_sk_storage_get(
            addr_of!(OBSERVED).cast_mut().cast(),
            sk.cast(),
            core::ptr::from_mut(key).cast(),
            BPF_SK_STORAGE_GET_F_CREATE.into(),
        )
    };
    let kept: *mut CoverKey = kept.cast();
    if !kept.is_null() {
        // SAFETY: not null, and the storage of the socket. An earlier connect() may have left another.
        unsafe {
            *kept = wanted;
        }
    }
}

/// The observer's note.
#[inline(always)]
pub(crate) fn observed(ctx: &SockOpsContext) -> Option<CoverKey> {
    let sk: *mut bpf_sock = field!(ctx.ops, __bindgen_anon_2.sk);
    if sk.is_null() {
        return None;
    }
    // SAFETY: a full socket, checked above; without the flag the helper only looks up.
    let found = unsafe {
        bpf_sk_storage_get(
            addr_of!(OBSERVED).cast_mut().cast(),
            sk.cast(),
            core::ptr::null_mut(),
            0,
        )
    };
    let found: *mut CoverKey = found.cast();
    // SAFETY: null, or the storage of the socket.
    unsafe { found.as_ref() }.copied()
}

/// Has the hook called when the socket's state changes.
#[inline(always)]
pub(crate) fn report_states(ctx: &SockOpsContext) {
    // SAFETY: the helper takes the hook's own context. A failure means that the connection's
    // end is not reported, which nothing depends on.
    let _result =
        unsafe { bpf_sock_ops_cb_flags_set(ctx.ops, BPF_SOCK_OPS_STATE_CB_FLAG.cast_signed()) };
}

/// Has the hook called for nothing but what every connection has it called for.
#[inline(always)]
pub(crate) fn report_nothing(ctx: &SockOpsContext) {
    // SAFETY: the helper takes the hook's own context. A failure costs calls that do nothing.
    let _result = unsafe { bpf_sock_ops_cb_flags_set(ctx.ops, 0) };
}

/// The state before and after the change that is reported.
#[inline(always)]
pub(crate) fn states(ctx: &SockOpsContext) -> (u32, u32) {
    (field!(ctx.ops, __bindgen_anon_1.args[0]), field!(ctx.ops, __bindgen_anon_1.args[1]))
}

/// Sequence numbers that the other end has acknowledged.
#[inline(always)]
pub(crate) fn bytes_acked(ctx: &SockOpsContext) -> u64 {
    field!(ctx.ops, bytes_acked)
}

/// Sequence numbers that the other end has sent.
#[inline(always)]
pub(crate) fn bytes_received(ctx: &SockOpsContext) -> u64 {
    field!(ctx.ops, bytes_received)
}

/// The smoothed round-trip time, in microseconds.
#[inline(always)]
pub(crate) fn srtt_us(ctx: &SockOpsContext) -> u32 {
    // The kernel keeps it in eighths.
    field!(ctx.ops, srtt_us) >> 3
}

/// Segments that were sent again.
#[inline(always)]
pub(crate) fn retransmitted(ctx: &SockOpsContext) -> u32 {
    field!(ctx.ops, total_retrans)
}

/// The protocol of what arrives, `IPPROTO_…`.
#[inline(always)]
pub(crate) fn lookup_protocol(ctx: &SkLookupContext) -> u32 {
    field!(ctx.lookup, protocol)
}

/// 4 or 6.
#[inline(always)]
pub(crate) fn lookup_family(ctx: &SkLookupContext) -> u16 {
    if field!(ctx.lookup, family) == AF_INET { 4 } else { 6 }
}

/// The end on this side.
#[inline(always)]
pub(crate) fn lookup_local(ctx: &SkLookupContext) -> End {
    // As in `local`.
    let v4 = field!(ctx.lookup, local_ip4);
    let v6 = [
        field!(ctx.lookup, local_ip6[0]),
        field!(ctx.lookup, local_ip6[1]),
        field!(ctx.lookup, local_ip6[2]),
        field!(ctx.lookup, local_ip6[3]),
    ];
    let addr = if field!(ctx.lookup, family) == AF_INET { addr::from_v4_be(v4) } else { v6 };
    // `local_port` is in host byte order.
    End { addr, port_be: ((field!(ctx.lookup, local_port) & 0xffff) as u16).to_be() }
}

/// The end on the other side.
#[inline(always)]
pub(crate) fn lookup_remote(ctx: &SkLookupContext) -> End {
    // As in `local`.
    let v4 = field!(ctx.lookup, remote_ip4);
    let v6 = [
        field!(ctx.lookup, remote_ip6[0]),
        field!(ctx.lookup, remote_ip6[1]),
        field!(ctx.lookup, remote_ip6[2]),
        field!(ctx.lookup, remote_ip6[3]),
    ];
    let addr = if field!(ctx.lookup, family) == AF_INET { addr::from_v4_be(v4) } else { v6 };
    End { addr, port_be: field!(ctx.lookup, remote_port) }
}

/// Gives what arrives to a listener. False: it is not there (any more).
#[inline(always)]
pub(crate) fn assign(
    ctx: &SkLookupContext,
    listeners: &SockHash<ListenerKey, MAX_LISTENERS>,
    key: &ListenerKey,
) -> bool {
    listeners.redirect_sk_lookup(SkLookupContext::new(ctx.lookup), key, 0).is_ok()
}

/// The socket that a message is sent on; null: none.
#[inline(always)]
pub(crate) fn message_sk(ctx: &SkMsgContext) -> *mut bpf_sock {
    field!(ctx.msg, __bindgen_anon_3.sk)
}

/// The size of a message, in bytes.
#[inline(always)]
pub(crate) fn message_size(ctx: &SkMsgContext) -> u32 {
    field!(ctx.msg, size)
}

/// The level and the name of the socket option that is being set.
#[inline(always)]
pub(crate) fn option(ctx: &SockoptContext) -> (i32, i32) {
    (field!(ctx.sockopt, level), field!(ctx.sockopt, optname))
}

/// The socket whose option is being set; null: none.
#[inline(always)]
pub(crate) fn option_sk(ctx: &SockoptContext) -> *mut bpf_sock {
    field!(ctx.sockopt, __bindgen_anon_1.sk)
}
