//! The memory allocator of the `gantry-runtime` binary: small, quick for a process that lives for milliseconds, frugal for
//! a monitor that lives for months.
//!
//! musl's allocator maps and unmaps pages as groups of blocks come and go: a fifth of a run's system calls, and as many
//! page faults. Here a block of at most 32 KiB is cut off the end of a region, in sizes of four steps a power of two; a
//! freed block waits in a list of its size for the next of its kind, and never goes back. What is larger has a mapping of
//! its own and goes back at once. The newest block grows in place, which is what a vector that is being filled wants.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};

/// Largest block that is cut off a region.
const LARGEST: usize = 32 << 10;
/// A region: mapped as one, touched as needed.
const REGION: usize = 256 << 10;
/// Blocks are multiples of this, and aligned to it.
const GRAIN: usize = 16;
/// Sizes: 16 to 128 in steps of 16, then four a power of two up to [`LARGEST`].
const CLASSES: usize = 8 + 8 * 4;
const PAGE: usize = 4096;

/// The allocator. One lock guards it: uncontended in a process of one thread.
pub struct Heap {
    locked: AtomicBool,
    state: UnsafeCell<State>,
}

struct State {
    /// First free block of each size; a free block's first word leads to the next.
    free: [*mut u8; CLASSES],
    /// Where the next block is cut off, and where the region ends.
    next: usize,
    end: usize,
}

// SAFETY: `state` is touched only between `lock` and the drop of its guard, by one thread at a time.
unsafe impl Sync for Heap {}

impl std::fmt::Debug for Heap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Heap")
    }
}

impl Default for Heap {
    fn default() -> Heap {
        Heap::new()
    }
}

struct Guard<'a>(&'a Heap);

impl Guard<'_> {
    fn state(&mut self) -> &mut State {
        // SAFETY: the guard exists once at a time, so this is the only reference into the cell.
        unsafe { &mut *self.0.state.get() }
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.locked.store(false, Ordering::Release);
    }
}

/// The size class of so many bytes (at most [`LARGEST`]) and the size of its blocks.
fn class(size: usize) -> (usize, usize) {
    if size <= 128 {
        let at = size.max(1).div_ceil(GRAIN) - 1;
        return (at, (at + 1) * GRAIN);
    }
    // Above 128: 2^n < size <= 2^(n+1), in quarters of 2^n.
    let power = usize::BITS as usize - 1 - (size - 1).leading_zeros() as usize;
    let step = 1 << (power - 2);
    let quarter = (size - (1 << power)).div_ceil(step);
    (8 + (power - 7) * 4 + quarter - 1, (1 << power) + quarter * step)
}

impl State {
    /// A block of the size; null where the kernel has no memory.
    fn take(&mut self, size: usize) -> *mut u8 {
        let (class, size) = class(size);
        let free = self.free[class];
        if !free.is_null() {
            // SAFETY: a block in the list is ours, at least a word long and aligned; its first word was written by `put`.
            self.free[class] = unsafe { free.cast::<*mut u8>().read() };
            return free;
        }
        if self.end - self.next < size {
            let region = map(REGION);
            if region.is_null() {
                return region;
            }
            // What is left of the old region, less than one block, is given up: it was never touched.
            (self.next, self.end) = (region as usize, region as usize + REGION);
        }
        let block = self.next;
        self.next += size;
        block as *mut u8
    }

    fn put(&mut self, block: *mut u8, size: usize) {
        let (class, size) = class(size);
        if block as usize + size == self.next {
            self.next = block as usize;
            return;
        }
        // SAFETY: the block was cut off by `take` with this size, so it holds a word, and its owner has given it up.
        unsafe { block.cast::<*mut u8>().write(self.free[class]) };
        self.free[class] = block;
    }

    /// Lets the newest block grow or shrink where it lies.
    fn stretch(&mut self, block: *mut u8, old: usize, new: usize) -> bool {
        let ((_, old), (_, new)) = (class(old), class(new));
        if old == new {
            return true;
        }
        let start = block as usize;
        if start + old != self.next || start + new > self.end {
            return false;
        }
        self.next = start + new;
        true
    }
}

/// mmap(2) of private zeroed memory; null where there is none.
fn map(size: usize) -> *mut u8 {
    let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory that exists.
    let mapped = unsafe { libc::mmap(null_mut(), size, rights, flags, -1, 0) };
    if mapped == libc::MAP_FAILED { null_mut() } else { mapped.cast() }
}

fn pages(size: usize) -> usize {
    size.next_multiple_of(PAGE)
}

/// Whether it comes out of a region; else it has a mapping of its own.
fn is_small(layout: Layout) -> bool {
    layout.size() <= LARGEST && layout.align() <= GRAIN
}

impl Heap {
    /// An empty heap; maps nothing before the first block is asked for.
    pub const fn new() -> Heap {
        let state = State { free: [null_mut(); CLASSES], next: 0, end: 0 };
        Heap { locked: AtomicBool::new(false), state: UnsafeCell::new(state) }
    }

    fn lock(&self) -> Guard<'_> {
        while self.locked.swap(true, Ordering::Acquire) {
            std::hint::spin_loop();
        }
        Guard(self)
    }
}

// SAFETY: `alloc` returns null or a block of at least the size, aligned to GRAIN or to a page (a greater alignment is
// refused by null), which nobody else has until `dealloc`; nothing here panics or allocates.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_small(layout) {
            return self.lock().state().take(layout.size());
        }
        if layout.align() > PAGE { null_mut() } else { map(pages(layout.size())) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is passed on.
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() && is_small(layout) {
            // SAFETY: the block has just been made, with at least this size. A mapping is zero already.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if is_small(layout) {
            return self.lock().state().put(block, layout.size());
        }
        // SAFETY: the block is a mapping of its own of this size, and its owner has given it up.
        unsafe { libc::munmap(block.cast(), pages(layout.size())) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that `size` does not overflow with this alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (is_small(layout), is_small(wanted)) {
            (true, true) if self.lock().state().stretch(block, layout.size(), size) => return block,
            (false, false) => {
                let (old, new) = (pages(layout.size()), pages(size));
                // SAFETY: the block is a mapping of its own of the old size, which the kernel moves where needed.
                let moved = unsafe { libc::mremap(block.cast(), old, new, libc::MREMAP_MAYMOVE) };
                return if moved == libc::MAP_FAILED { null_mut() } else { moved.cast() };
            }
            _ => {}
        }
        // SAFETY: a new block of the wanted size and an old one of the old size do not overlap.
        unsafe {
            let made = self.alloc(wanted);
            if !made.is_null() {
                made.copy_from_nonoverlapping(block, layout.size().min(size));
                self.dealloc(block, layout);
            }
            made
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 8).unwrap()
    }

    #[test]
    fn classes_grow_without_gaps() {
        let mut last = (0, 16);
        for size in 1..=LARGEST {
            let (at, block) = class(size);
            assert!(block >= size && block.is_multiple_of(GRAIN), "{size} in {block}");
            assert!(block <= size + size / 4 + GRAIN, "{size} in {block}");
            assert!((at, block) == last || (at == last.0 + 1 && block > last.1), "{size}: {at} {block}");
            last = (at, block);
        }
        assert_eq!(last, (CLASSES - 1, LARGEST));
    }

    #[test]
    fn blocks_are_apart_and_come_back() {
        let heap = Heap::new();
        let mut held: Vec<(*mut u8, usize, u8)> = Vec::new();
        for turn in 0..20_000_usize {
            let size = 1 + turn.wrapping_mul(2_654_435_761) % 3000;
            let mark = turn as u8;
            // SAFETY: each block is filled and read within its size, and freed once with the layout that made it.
            unsafe {
                let block = heap.alloc(layout(size));
                assert!(!block.is_null() && (block as usize).is_multiple_of(GRAIN));
                block.write_bytes(mark, size);
                held.push((block, size, mark));
                if turn % 3 != 0 {
                    let (block, size, mark) = held.swap_remove(turn * 7 % held.len());
                    assert!((0..size).all(|at| block.add(at).read() == mark), "somebody else wrote here");
                    heap.dealloc(block, layout(size));
                }
            }
        }
        assert!(held.iter().all(|(block, size, mark)| {
            // SAFETY: these blocks are still held.
            (0..*size).all(|at| unsafe { block.add(at).read() } == *mark)
        }));
    }

    #[test]
    fn what_was_freed_is_used_again() {
        let heap = Heap::new();
        // SAFETY: every block is freed once, with the layout that made it.
        unsafe {
            let (first, second) = (heap.alloc(layout(100)), heap.alloc(layout(100)));
            heap.dealloc(first, layout(100));
            assert_eq!(heap.alloc(layout(97)), first);
            heap.dealloc(second, layout(100));
            assert_eq!(heap.alloc(layout(500)), second, "the newest block goes back to the region");
        }
    }

    #[test]
    fn growth_keeps_what_is_there() {
        let heap = Heap::new();
        // SAFETY: sizes are those of the latest call, and reads stay within them.
        unsafe {
            let mut block = heap.alloc_zeroed(layout(10));
            block.write(7);
            let mut size = 10;
            for wanted in [40, 400, 4000, 40_000, 400_000, 200_000, 20_000, 20] {
                let other = heap.alloc(layout(32));
                block = heap.realloc(block, layout(size), wanted);
                assert!(!block.is_null());
                assert_eq!((block.read(), block.add(9).read()), (7, 0), "{wanted}");
                size = wanted;
                heap.dealloc(other, layout(32));
            }
            heap.dealloc(block, layout(size));
        }
    }

    #[test]
    fn large_blocks_are_zero_and_aligned() {
        let heap = Heap::new();
        let big = Layout::from_size_align(100, 64).unwrap();
        // SAFETY: the block is read within its size and freed with its layout.
        unsafe {
            let block = heap.alloc_zeroed(big);
            assert!((block as usize).is_multiple_of(64) && block.add(99).read() == 0);
            heap.dealloc(block, big);
            assert!(heap.alloc(Layout::from_size_align(8, 2 * PAGE).unwrap()).is_null());
        }
    }
}
