//! The shorter way between two sockets of this node (`sk_msg`): which sockets may use it, which
//! message takes it, and what is read of it. `mesh_common::accel` decides.

use core::ptr::{addr_of, addr_of_mut, from_mut, null_mut, read_volatile};

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_F_INGRESS, BPF_SK_STORAGE_GET_F_CREATE, BPF_SOCK_OPS_STATE_CB_FLAG,
    BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG, bpf_sock,
};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{
    bpf_get_smp_processor_id, bpf_get_socket_cookie, bpf_getsockopt, bpf_msg_redirect_hash,
    bpf_setsockopt, bpf_sk_storage_delete, bpf_sk_storage_get, bpf_sock_hash_update,
    bpf_sock_ops_cb_flags_set,
};
use aya_ebpf::programs::{BtfTracePointContext, SkMsgContext, SockOpsContext, SockoptContext};
use mesh_common::accel::{
    AMPLE_BYTES, BY_TCP, Fast, Keepalive, NEVER, SHUT, Tally, patience, slow,
};
use mesh_common::record::FlowKey;

use crate::ctx::{self, End};
use crate::maps::{ACCELERATED, FAST, SWITCH, TALLIES};
use crate::{agent, inbound};

/// The verdict of `sk_msg` that sends the message on; also the helpers' "found".
const PASS: u32 = 1;
/// `MSG_PEEK`: what was read stays.
const PEEK: i32 = 0x2;
/// `MSG_ERRQUEUE`: what was read is not from the stream.
const ERROR_QUEUE: i32 = 0x2000;
/// How often a sender that waits looks at the clock at most: the verifier wants a bound. One look
/// takes 30 ns and more.
const MOST_LOOKS: u32 = 4_096;
/// `SOL_SOCKET`.
const SOL_SOCKET: i32 = 1;
/// `SOL_TCP`.
const SOL_TCP: i32 = 6;
/// `SO_RCVLOWAT`.
const RECEIVE_LOW_WATER: i32 = 18;
/// `SO_KEEPALIVE`.
const KEEP_ALIVE: i32 = 9;
/// `TCP_KEEPIDLE`.
const KEEP_IDLE: i32 = 4;
/// `TCP_KEEPINTVL`.
const KEEP_INTERVAL: i32 = 5;
/// `SO_MAX_PACING_RATE`.
const PACE: i32 = 47;
/// `SO_ZEROCOPY`.
const ZEROCOPY: i32 = 60;
/// `TCP_ULP`: encryption by the kernel.
const UPPER_LAYER: i32 = 31;

/// A connection to the workload `destination` that both ends want accelerated is established on its
/// opening side.
#[inline(always)]
pub(crate) fn opened(context: &SockOpsContext, destination: u64) {
    let sk = ctx::ops_sk(context);
    if sk.is_null() || !is_on() || !ctx::multipath(sk).is_null() || ctx::has_sent(context) {
        return;
    }
    let (sends, receives) = directions(context);
    // SAFETY: the helper takes the hook's own context.
    let id = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
    // The other end is established after this one has acknowledged its SYN, so it finds both.
    let there = TALLIES.insert(sends, Tally::new(id, destination), 0).is_ok();
    let back = TALLIES.insert(receives, Tally::new(id, destination), 0).is_ok();
    if !there || !back || !enter(context, sk, Fast::new(id, receives, sends)) {
        // A missing entry is no error.
        let _there = TALLIES.remove(sends);
        let _back = TALLIES.remove(receives);
        return;
    }
    flags_set(context, BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
}

/// A connection is established on its accepting side. If the opening side wants it accelerated,
/// there are tallies.
#[inline(always)]
pub(crate) fn accepted(context: &SockOpsContext) {
    let sk = ctx::ops_sk(context);
    if sk.is_null() || !is_on() {
        return;
    }
    let (sends, receives) = directions(context);
    // SAFETY: as for all entries of the kernel's hashes, every bit pattern is a value.
    let Some(tally) = (unsafe { TALLIES.get(receives) }) else { return };
    // Any namespace may have sockets with the same two addresses. In that of the workload that the
    // connection is for there is one.
    if receives.netns == 0 {
        let inbound = inbound::known(ctx::ops_netns(context), ctx::local(context).port_be);
        if inbound.is_none_or(|inbound| inbound.workload != tally.destination) {
            return;
        }
    }
    // Bytes that came with the SYN were not counted.
    if !ctx::multipath(sk).is_null() || ctx::bytes_received(context) != 0 {
        return;
    }
    if enter(context, sk, Fast::new(tally.id, receives, sends)) {
        flags_set(context, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG);
    }
}

/// An accelerated socket is about to send a packet: an acknowledgement of what came by TCP, say.
///
/// A reader that takes less than there was room for may take the socket for empty until it is woken again
/// (epoll(7), edge-triggered; tokio and nginx do). Where the shorter way's bytes end and TCP's
/// begin, there is such a read although there is more. So while anything waits, the socket is woken
/// with each packet, and keepalive sees to it that there is one every second.
#[inline(always)]
pub(crate) fn sending(context: &SockOpsContext) {
    let sk = ctx::ops_sk(context);
    if sk.is_null() {
        return;
    }
    let fast = storage(sk.cast());
    if fast.is_null() {
        return;
    }
    // SAFETY: not null, and the storage lives as long as the socket, whose lock the kernel holds.
    let fast = unsafe { &mut *fast };
    remind(context, fast);
    pace(context, fast);
}

#[inline(always)]
fn remind(context: &SockOpsContext, fast: &mut Fast) {
    let Some(tally) = tally(&fast.receives, fast.id) else { return };
    // SAFETY: not null, and entries are freed after the program has ended.
    let tally = unsafe { &*tally };
    let waits = tally.sent != tally.consumed && tally.flags & SHUT == 0;
    if waits {
        if fast.own_keepalive == 0 {
            fast.own_keepalive = keepalive(context).pack();
            set_keepalive(context, Keepalive::EVERY_SECOND);
        }
        // It is 1 already; setting it wakes the reader if there is anything to read.
        set(context, SOL_SOCKET, RECEIVE_LOW_WATER, 1);
    } else if fast.own_keepalive != 0 {
        let own = Keepalive::unpack(fast.own_keepalive);
        fast.own_keepalive = 0;
        set_keepalive(context, own);
    }
}

/// The sender goes slowly for as long as the reader has not come to where TCP begins, so that
/// packets still arrive, and wake the reader, when it has.
#[inline(always)]
fn pace(context: &SockOpsContext, fast: &mut Fast) {
    let size = ctx::packet_size(context);
    if size == 0 {
        return;
    }
    let held = match tally(&fast.sends, fast.id) {
        // SAFETY: not null, and entries are freed after the program has ended.
        Some(tally) => unsafe { (*tally).is_held(&fast.way) },
        None => false,
    };
    if held {
        if fast.own_pace == 0 {
            fast.own_pace = get(context, SOL_SOCKET, PACE).max(1);
        }
        set(context, SOL_SOCKET, PACE, slow(size).min(fast.own_pace));
    } else if fast.own_pace != 0 {
        set(context, SOL_SOCKET, PACE, fast.own_pace);
        fast.own_pace = 0;
    }
}

#[inline(always)]
fn keepalive(context: &SockOpsContext) -> Keepalive {
    Keepalive {
        idle: get(context, SOL_TCP, KEEP_IDLE),
        interval: get(context, SOL_TCP, KEEP_INTERVAL),
        on: get(context, SOL_SOCKET, KEEP_ALIVE),
    }
}

#[inline(always)]
fn set_keepalive(context: &SockOpsContext, keepalive: Keepalive) {
    set(context, SOL_TCP, KEEP_IDLE, keepalive.idle);
    set(context, SOL_TCP, KEEP_INTERVAL, keepalive.interval);
    set(context, SOL_SOCKET, KEEP_ALIVE, keepalive.on);
}

#[inline(always)]
fn get(context: &SockOpsContext, level: i32, name: i32) -> u32 {
    let mut value = 0_u32;
    // SAFETY: the helper takes the hook's own context, and writes the four bytes.
    let _failed =
        unsafe { bpf_getsockopt(context.as_ptr(), level, name, from_mut(&mut value).cast(), 4) };
    value
}

#[inline(always)]
fn set(context: &SockOpsContext, level: i32, name: i32, value: u32) {
    let mut value = value;
    // SAFETY: the helper takes the hook's own context, and reads the four bytes.
    let _failed =
        unsafe { bpf_setsockopt(context.as_ptr(), level, name, from_mut(&mut value).cast(), 4) };
}

#[inline(always)]
fn flags_set(context: &SockOpsContext, flags: u32) {
    // SAFETY: the helper takes the hook's own context.
    let _result = unsafe { bpf_sock_ops_cb_flags_set(context.ops, flags.cast_signed()) };
}

/// A connection is over on its opening side: forgets its tallies. Returns the bytes from this end
/// and to it that took the shorter way, of which TCP does not know.
#[inline(always)]
pub(crate) fn closed(context: &SockOpsContext) -> (u64, u64) {
    let sk = ctx::ops_sk(context);
    if sk.is_null() {
        return (0, 0);
    }
    let fast = storage(sk.cast());
    if fast.is_null() {
        return (0, 0);
    }
    // SAFETY: not null, and the storage lives as long as the socket.
    let fast = unsafe { &*fast };
    (take(&fast.sends, fast.id), take(&fast.receives, fast.id))
}

/// Forgets a tally, and returns how many bytes took the shorter way.
#[inline(always)]
fn take(key: &FlowKey, id: u64) -> u64 {
    let Some(tally) = tally(key, id) else { return 0 };
    // SAFETY: not null, and entries are freed after the program has ended.
    let shorter = unsafe { (*tally).shorter };
    let _done = TALLIES.remove(key);
    shorter
}

/// `sk_msg`: a message is sent on an accelerated socket.
#[inline(always)]
pub(crate) fn send(context: &SkMsgContext) -> u32 {
    let sk = ctx::message_sk(context);
    if sk.is_null() {
        return PASS;
    }
    let fast = storage(sk.cast());
    if fast.is_null() {
        return PASS;
    }
    // SAFETY: not null, and the storage lives as long as the socket. The kernel holds the socket's
    // lock while the program runs, so that nobody else sends on it.
    let fast = unsafe { &mut *fast };
    let Some(tally) = tally(&fast.sends, fast.id) else {
        fast.way.state = NEVER;
        return PASS;
    };
    let size = ctx::message_size(context);
    // SAFETY: not null. Only the receiver writes `consumed`, and `offer` only reads it.
    let tally = unsafe { &mut *tally };
    if tally.reader != processor() && tally.is_ample(&fast.way) {
        wait(tally, size);
    }
    if !tally.offer(&mut fast.way, size, is_on()) {
        return PASS;
    }
    // SAFETY: the helper takes the hook's own context, and a key of the map's size.
    let found = unsafe {
        bpf_msg_redirect_hash(
            context.msg,
            map(&ACCELERATED),
            addr_of_mut!(fast.sends).cast(),
            BPF_F_INGRESS.into(),
        )
    };
    if found == i64::from(PASS) {
        tally.took(size);
    } else {
        // The other end is not there yet, or not any more.
        fast.way.state = BY_TCP;
    }
    PASS
}

/// Gives the reader a moment to read some of what waits. It runs on another processor, and is not
/// much slower than we are. There is nothing in the shorter way that a sender could sleep on.
#[inline(always)]
fn wait(tally: &Tally, size: u32) {
    let until = agent::now().saturating_add(patience(size));
    for _ in 0..MOST_LOOKS {
        // SAFETY: a reference. The receiver writes it meanwhile, hence volatile.
        let consumed = unsafe { read_volatile(addr_of!(tally.consumed)) };
        if tally.sent.wrapping_sub(consumed) <= AMPLE_BYTES || agent::now() >= until {
            return;
        }
    }
}

#[inline(always)]
fn processor() -> u32 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_smp_processor_id() }
}

/// `sock_recv_length`: somebody has read from some socket.
#[inline(always)]
pub(crate) fn received(context: &BtfTracePointContext) {
    let sk: *const c_void = context.arg(0);
    let bytes: i32 = context.arg(1);
    let flags: i32 = context.arg(2);
    if bytes <= 0 || flags & (PEEK | ERROR_QUEUE) != 0 {
        return;
    }
    let fast = storage(sk.cast_mut());
    if fast.is_null() {
        return;
    }
    // SAFETY: not null, and the storage lives as long as the socket.
    let fast = unsafe { &*fast };
    let Some(tally) = tally(&fast.receives, fast.id) else { return };
    // Not atomic: this target has no such addition. Of two threads that read one socket at the same
    // moment one may not be counted, and the connection then stays with TCP.
    // SAFETY: not null. The sender does not write it.
    let tally = unsafe { &mut *tally };
    tally.reader = processor();
    tally.consumed = tally.consumed.wrapping_add(u64::from(bytes.unsigned_abs()));
}

/// `setsockopt`: whether an option may be set. Some do not go with the shorter way: they are
/// refused, so that the application falls back to what it does without, or end the shorter way.
#[inline(always)]
pub(crate) fn may_set(context: &SockoptContext) -> bool {
    let (level, name) = ctx::option(context);
    let zerocopy = level == SOL_SOCKET && name == ZEROCOPY;
    let upper_layer = level == SOL_TCP && name == UPPER_LAYER;
    let low_water = level == SOL_SOCKET && name == RECEIVE_LOW_WATER;
    if !zerocopy && !upper_layer && !low_water {
        return true;
    }
    let sk = ctx::option_sk(context);
    if sk.is_null() {
        return true;
    }
    let fast = storage(sk.cast());
    if fast.is_null() {
        // Not connected yet, or not accelerated: it will not be.
        let _kept = create(sk, &mut Fast::refused());
        return true;
    }
    // SAFETY: not null, and the storage lives as long as the socket.
    let fast = unsafe { &*fast };
    let Some(tally) = tally(&fast.receives, fast.id) else { return true };
    if low_water {
        // SAFETY: not null. Nobody else writes the flags.
        unsafe {
            (*tally).flags = SHUT;
        }
    }
    low_water
}

/// Puts a socket where it can be found. False: it is not to be accelerated.
#[inline(always)]
fn enter(context: &SockOpsContext, sk: *mut bpf_sock, fast: Fast) -> bool {
    let mut fast = fast;
    let kept = create(sk, &mut fast);
    if kept.is_null() {
        return false;
    }
    // SAFETY: not null, and the storage lives as long as the socket.
    let kept = unsafe { &mut *kept };
    if kept.id == 0 {
        // An option that was set before it was connected.
        return false;
    }
    // The entry of an earlier connection on the same socket is replaced.
    *kept = fast;
    // SAFETY: the helper takes the hook's own context, and a key of the map's size.
    let entered = unsafe {
        bpf_sock_hash_update(context.ops, map(&ACCELERATED), addr_of_mut!(fast.receives).cast(), 0)
    };
    if entered != 0 {
        // SAFETY: the socket is not null.
        let _gone = unsafe { bpf_sk_storage_delete(map(&FAST), sk.cast()) };
    }
    entered == 0
}

/// The directions in which the socket of the hook sends and receives.
#[inline(always)]
fn directions(context: &SockOpsContext) -> (FlowKey, FlowKey) {
    let (local, remote) = (ctx::local(context), ctx::remote(context));
    let netns = ctx::ops_netns(context);
    let key =
        |from: End, to: End| FlowKey::new(netns, (from.addr, from.port_be), (to.addr, to.port_be));
    (key(local, remote), key(remote, local))
}

/// The tally of a direction of the connection `id`.
#[inline(always)]
fn tally(key: &FlowKey, id: u64) -> Option<*mut Tally> {
    let tally = TALLIES.get_ptr_mut(key)?;
    // SAFETY: the map returns pointers to whole entries, which are freed after the program ended.
    if unsafe { (*tally).id } == id { Some(tally) } else { None }
}

#[inline(always)]
fn is_on() -> bool {
    SWITCH.get(0).is_some_and(|on| *on != 0)
}

#[inline(always)]
fn storage(sk: *mut c_void) -> *mut Fast {
    // SAFETY: the verifier knows the socket; without the flag the helper only looks up.
    unsafe { bpf_sk_storage_get(map(&FAST), sk, null_mut(), 0) }.cast()
}

#[inline(always)]
fn create(sk: *mut bpf_sock, value: &mut Fast) -> *mut Fast {
    // SAFETY: as in `storage`; the helper copies the value.
    unsafe {
        bpf_sk_storage_get(
            map(&FAST),
            sk.cast(),
            from_mut(value).cast(),
            BPF_SK_STORAGE_GET_F_CREATE.into(),
        )
    }
    .cast()
}

/// A map as the helpers want it.
#[inline(always)]
const fn map<M>(map: &'static M) -> *mut c_void {
    core::ptr::from_ref(map).cast_mut().cast()
}
