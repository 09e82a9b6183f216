//! Turns of frames, as h2 is given them.

use std::future::poll_fn;
use std::task::Waker;

use proptest::prelude::*;

use tokio::time::Duration;

use super::rules::{Resets, SETTINGS_EACH_MS, Settings};
use super::*;

/// A connection that gives pieces as they are, and then ends.
struct Pieces(Vec<Vec<u8>>);

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(coop::poll_proceed(cx)).made_progress();
        if let Some(piece) = self.0.first_mut() {
            let part = piece.len().min(buffer.remaining());
            buffer.put_slice(&piece[..part]);
            piece.drain(..part);
            if piece.is_empty() {
                self.0.remove(0);
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
    let head = u32::try_from(length).unwrap().to_be_bytes();
    [&head[1..], &[kind, flags, 0, 0, 0, 1], &vec![7; length]].concat()
}

/// The bytes that one turn of a task reads, with the room that h2 has.
async fn turn(paced: &mut Paced<Pieces>) -> io::Result<Vec<u8>> {
    let mut got = Vec::new();
    tokio::task::yield_now().await;
    poll_fn(|_cx| {
        loop {
            let mut bytes = [0; 8 << 10];
            let mut buffer = ReadBuf::new(&mut bytes);
            // Nobody waits: the next turn is asked for.
            match Pin::new(&mut *paced)
                .poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer)
            {
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => break,
                Poll::Ready(Ok(())) => got.extend_from_slice(buffer.filled()),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(()))
    })
    .await?;
    Ok(got)
}

/// How many such frames a turn is given of many.
async fn given(frame: &[u8]) -> usize {
    let all = frame.repeat(2_000);
    let mut paced = Paced::of_server(Pieces(vec![all]));
    turn(&mut paced).await.unwrap().len().div_ceil(frame.len())
}

#[tokio::test]
async fn a_turn_has_room_for_so_many_frames() {
    let heads = given(&frame(kind::HEADERS, 4, 5)).await;
    assert!((10..=20).contains(&heads), "{heads}");
    // 5,000 fields of one byte.
    let heads = given(&frame(kind::HEADERS, 4, 5_000)).await;
    assert!(heads <= 3, "{heads}");
    let acks = given(&frame(kind::SETTINGS, ACK, 0)).await;
    assert!((10..=20).contains(&acks), "{acks}");
    for light in [frame(kind::DATA, 0, 1), frame(8, 0, 4), frame(3, 0, 4), frame(0xf0, 0, 0)] {
        let count = given(&light).await;
        assert!((100..=160).contains(&count), "{count}");
    }
}

#[test]
fn settings_are_bounded_by_time() {
    let mut now = Instant::now();
    let mut settings = Settings::new(now);
    let most = |settings: &mut Settings, now| {
        std::iter::repeat_with(|| settings.take(now)).take_while(Result::is_ok).count()
    };
    assert_eq!(most(&mut settings, now), 64);
    now += Duration::from_millis(SETTINGS_EACH_MS * 3);
    assert_eq!(most(&mut settings, now), 3);
    now += Duration::from_hours(100);
    assert_eq!(most(&mut settings, now), 64);
}

#[tokio::test]
async fn too_many_settings_end_the_connection() {
    let one = frame(kind::SETTINGS, 0, 6);
    let more = one.repeat(100);
    for cut in [1, 7, 1_000, 1_501] {
        let pieces = more.chunks(cut).map(<[u8]>::to_vec).collect();
        let mut paced = Paced::of_server(Pieces(pieces));
        let mut got = Vec::new();
        while !paced.is_over || !paced.held.is_empty() {
            got.extend(turn(&mut paced).await.unwrap());
        }
        assert_eq!(got, [one.repeat(64), FAREWELL.to_vec()].concat(), "{cut}");
        assert!(turn(&mut paced).await.unwrap().is_empty(), "nothing more is read");
    }
}

#[test]
fn most_requests_may_not_be_taken_back() {
    let start = Instant::now();
    // So many are asked for, with trailers, and taken back each time; when that is too much.
    let check = |asked: u32, taken_back: u32, each: Duration, expect: Option<u32>| {
        let mut resets = Resets::new(start);
        let (mut now, mut stream) = (start, 0);
        let round = |_: &u32| {
            now += each;
            let head = |kind, stream| Head { length: 0, kind, flags: 0, stream };
            let mut heads = Vec::new();
            for _ in 0..asked {
                stream += 2;
                heads.extend([head(kind::HEADERS, stream), head(kind::HEADERS, stream)]);
            }
            heads.extend((0..taken_back).map(|_| head(kind::RST_STREAM, stream)));
            heads.into_iter().map(|head| resets.count(head, now)).any(|it| it.is_err())
        };
        assert_eq!((1..=2_000).find(round), expect, "{asked} {taken_back}");
    };
    check(1, 1, Duration::ZERO, Some(501));
    check(2, 1, Duration::ZERO, None);
    check(1, 1, Duration::from_millis(3), None);
    check(100, 100, Duration::from_millis(100), Some(6));
}

proptest! {
    /// For all frames, however they are cut: all bytes come, in order, and no turn has
    /// more than its frames.
    #[test]
    fn nothing_is_lost(
        frames in prop::collection::vec((any::<u8>(), 0_usize..3_000), 1..200),
        cut in 1_usize..20_000,
    ) {
        let is_settings = |kind: &u8| *kind == kind::SETTINGS;
        let mut all = vec![1; 24];
        for (kind, length) in &frames {
            all.extend(frame(*kind, u8::from(is_settings(kind)), *length));
        }
        let pieces = all.chunks(cut).map(<[u8]>::to_vec).collect();
        let mut paced = Paced::of_client(Pieces(pieces));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let got = runtime.unwrap().block_on(async move {
            let mut got = Vec::new();
            loop {
                got.extend(turn(&mut paced).await.unwrap());
                if paced.io.0.is_empty() && paced.held.is_empty() {
                    return got;
                }
            }
        });
        prop_assert_eq!(got, all);
    }
}
