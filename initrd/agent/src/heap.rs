//! The agent's allocator: power-of-two size classes with free lists over memory from `mmap`.
//!
//! The agent is single-threaded and small; what matters is that freed blocks are used again and
//! that an allocation executes few instructions.

use crate::sys;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::{NonNull, null_mut};

/// Smallest block, 16 bytes: room for the link of a free list.
const SMALLEST_SHIFT: usize = 4;
/// Blocks above 64 KiB come straight from the kernel and go back to it.
const LARGEST_SHIFT: usize = 16;
const CLASSES: usize = LARGEST_SHIFT - SMALLEST_SHIFT + 1;
const CHUNK_BYTES: usize = 256 * 1024;
const PAGE_BYTES: usize = 4096;

struct Free {
    next: Option<NonNull<Free>>,
}

struct State {
    free: [Option<NonNull<Free>>; CLASSES],
    chunk: *mut u8,
    left_bytes: usize,
}

/// The global allocator.
pub struct Heap {
    state: UnsafeCell<State>,
}

// SAFETY: the agent never has a second thread; children made by fork have their own copy.
unsafe impl Sync for Heap {}

impl Heap {
    /// An allocator that has asked for no memory yet.
    pub const fn new() -> Self {
        let state = State { free: [None; CLASSES], chunk: null_mut(), left_bytes: 0 };
        Heap { state: UnsafeCell::new(state) }
    }
}

impl Default for Heap {
    fn default() -> Self {
        Self::new()
    }
}

/// The size class of a request, or None for one the kernel serves. Blocks are aligned to their
/// size, so that a class also satisfies every alignment up to it.
fn class_of(layout: &Layout) -> Option<usize> {
    let bytes = layout.size().max(layout.align()).max(1 << SMALLEST_SHIFT).next_power_of_two();
    let shift = bytes.trailing_zeros() as usize;
    (shift <= LARGEST_SHIFT).then(|| shift - SMALLEST_SHIFT)
}

fn round_to_pages(bytes: usize) -> usize {
    (bytes + PAGE_BYTES - 1) & !(PAGE_BYTES - 1)
}

impl State {
    fn carve(&mut self, block_bytes: usize) -> *mut u8 {
        let misaligned = self.chunk as usize & (block_bytes - 1);
        let padding = if misaligned == 0 { 0 } else { block_bytes - misaligned };
        if self.left_bytes < padding + block_bytes {
            let Some(chunk) = sys::map_memory(CHUNK_BYTES) else { return null_mut() };
            self.chunk = chunk;
            self.left_bytes = CHUNK_BYTES;
            return self.carve_aligned(block_bytes);
        }
        self.chunk = self.chunk.wrapping_add(padding);
        self.left_bytes -= padding;
        self.carve_aligned(block_bytes)
    }

    /// Takes a block from the chunk's start, stepping over what its alignment leaves.
    fn carve_aligned(&mut self, block_bytes: usize) -> *mut u8 {
        let misaligned = self.chunk as usize & (block_bytes - 1);
        let padding = if misaligned == 0 { 0 } else { block_bytes - misaligned };
        let block = self.chunk.wrapping_add(padding);
        self.chunk = block.wrapping_add(block_bytes);
        self.left_bytes -= padding + block_bytes;
        block
    }
}

// SAFETY: blocks of a class are disjoint, at least as large and as aligned as the layout asks, and
// are handed out once until they are freed.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: single-threaded, and no reference outlives this call.
        let state = unsafe { &mut *self.state.get() };
        let Some(class) = class_of(&layout) else {
            return sys::map_memory(round_to_pages(layout.size())).unwrap_or(null_mut());
        };
        match state.free[class] {
            Some(block) => {
                // SAFETY: a block on the list holds the link written by dealloc.
                state.free[class] = unsafe { block.as_ref().next };
                block.as_ptr().cast()
            }
            None => state.carve(1 << (class + SMALLEST_SHIFT)),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: single-threaded, and no reference outlives this call.
        let state = unsafe { &mut *self.state.get() };
        let Some(class) = class_of(&layout) else {
            // SAFETY: alloc mapped exactly this area.
            unsafe { sys::unmap_memory(block, round_to_pages(layout.size())) };
            return;
        };
        #[expect(clippy::cast_ptr_alignment, reason = "blocks are aligned to 16 bytes or more")]
        if let Some(link) = NonNull::new(block.cast::<Free>()) {
            // SAFETY: the block is free, aligned, and at least 16 bytes.
            unsafe { link.write(Free { next: state.free[class] }) };
            state.free[class] = Some(link);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_disjoint_and_reused() {
        let heap = Heap::new();
        let mut blocks = Vec::new();
        for bytes in [1_usize, 24, 4000, 65_536, 70_000] {
            for align in [1_usize, 16, 4096] {
                let layout = Layout::from_size_align(bytes, align).unwrap();
                // SAFETY: the layout's size is not zero.
                let block = unsafe { heap.alloc(layout) };
                assert!(!block.is_null());
                assert_eq!(block as usize % align, 0);
                // SAFETY: the block holds that many bytes.
                unsafe { block.write_bytes(0xa5, bytes) };
                for (other, other_layout) in &blocks {
                    let (start, end) =
                        (*other as usize, *other as usize + Layout::size(other_layout));
                    assert!(block as usize >= end || block as usize + bytes <= start);
                }
                blocks.push((block, layout));
            }
        }
        let (block, layout) = blocks[3];
        // SAFETY: allocated above with this layout, not used again.
        unsafe { heap.dealloc(block, layout) };
        // SAFETY: as above.
        assert_eq!(unsafe { heap.alloc(layout) }, block);
    }
}
