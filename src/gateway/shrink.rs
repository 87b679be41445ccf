//! Memory relief: idle sessions shrink their replay buffers, and unused memory is given back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::state::State;

/// Pause after sessions were asked to shrink. `LONG_PAUSE` follows when there was none to ask.
const PAUSE: Duration = Duration::from_millis(100);
const LONG_PAUSE: Duration = Duration::from_secs(1);
/// Shortest interval between two reports of a shortage.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// Divisor of the limit: an eighth is freed beyond what is lacking, so that it lasts a while.
const MARGIN: usize = 8;

/// Shrinks the replay buffers of the idlest sessions whenever memory is short, until the shutdown.
pub(super) async fn relieve(state: Arc<State>) {
    let relieving = async {
        let mut reported = None::<Instant>;
        loop {
            state.memory.short().await;
            let asked = ask(&state);
            if reported.is_none_or(|reported| reported.elapsed() >= REPORT_EVERY) {
                reported = Some(Instant::now());
                tracing::warn!(
                    used = state.memory.used(),
                    limit = state.memory.limit(),
                    sessions = asked,
                    "too much memory in replay buffers, idle sessions shrink"
                );
            }
            sleep(if asked > 0 { PAUSE } else { LONG_PAUSE }).await;
        }
    };
    state.shutdown.interrupts(relieving).await;
}

/// Interval at which to look for unused memory. `WORTHWHILE` is how much it must have grown since
/// the last time to be given back, bytes.
#[cfg(target_env = "gnu")]
const LOOK: Duration = Duration::from_secs(2);
#[cfg(target_env = "gnu")]
const WORTHWHILE: usize = 32 << 20;

/// Gives memory back to the system that has become unused, until the shutdown.
///
/// By itself glibc's allocator gives back only what is free at the end of its heap.
#[cfg(target_env = "gnu")]
pub(super) async fn give_back(state: Arc<State>) {
    let giving = async {
        let mut least = usize::MAX;
        loop {
            sleep(LOOK).await;
            // Measuring and trimming may take a while.
            let looking = tokio::task::spawn_blocking(move || {
                let unused = unused();
                if unused < least.saturating_add(WORTHWHILE) {
                    return least.min(unused);
                }
                // SAFETY: what it gives back is free.
                unsafe { libc::malloc_trim(0) };
                self::unused()
            });
            least = looking.await.unwrap_or(least);
        }
    };
    state.shutdown.interrupts(giving).await;
}

/// Returns the memory that is resident and not allocated, code and the like included, bytes.
#[cfg(target_env = "gnu")]
fn unused() -> usize {
    // SAFETY: it takes nothing and tells numbers.
    let info = unsafe { libc::mallinfo2() };
    // SAFETY: it tells a number.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(0);
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|it| it.parse().ok());
    let resident = page * pages.unwrap_or(0);
    resident.saturating_sub(info.uordblks + info.hblkhd)
}

/// Asks sessions to shrink until they would free what is lacking, the longest idle first. Returns
/// how many were asked.
fn ask(state: &State) -> usize {
    let Some(limit) = state.memory.limit() else {
        return 0;
    };
    let lacking = state.memory.used().saturating_sub(limit - limit / MARGIN);
    let mut spares: Vec<_> = {
        let table = state.table();
        let spares = table.iter().map(|(id, entry)| (entry.handle.spare(), id));
        spares.filter(|(spare, _)| spare.bytes > 0).collect()
    };
    spares.sort_unstable_by_key(|(spare, _)| spare.active);
    let mut freed = 0;
    let mut asked = 0;
    for (spare, id) in spares {
        if freed >= lacking {
            break;
        }
        let entry = state.table().get(id).cloned();
        if let Some(entry) = entry {
            entry.handle.shrink();
            freed += spare.bytes;
            asked += 1;
        }
    }
    asked
}
