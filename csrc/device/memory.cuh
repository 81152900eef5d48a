// Global and shared memory, and the copies between them that run while threads compute.
//
// Shared memory is addressed by byte offsets from the start of the block's dynamic allocation. T is 1 to 16 bytes of
// plain data whose size is a power of two; addresses are multiples of it.
#pragma once

#include <cstdint>

#include <device/thread.cuh>

namespace fused_resnet::device {

using SharedOffset = std::uint32_t;

extern __shared__ uint4 dynamic_shared_memory[];

DEVICE char* shared_pointer(SharedOffset offset) { return reinterpret_cast<char*>(dynamic_shared_memory) + offset; }
DEVICE std::uint32_t shared_address(SharedOffset offset) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(shared_pointer(offset)));
}

template <class T>
DEVICE T shared_load(SharedOffset offset) {
  return *reinterpret_cast<const T*>(shared_pointer(offset));
}
template <class T>
DEVICE void shared_store(SharedOffset offset, T value) {
  *reinterpret_cast<T*>(shared_pointer(offset)) = value;
}

template <class T>
DEVICE T global_load(const T* pointer) {
  return *pointer;
}
template <class T>
DEVICE void global_store(T* pointer, T value) {
  *pointer = value;
}

// Copies 16 bytes, or writes 16 zero bytes and reads nothing where `valid` is false, wherever `from` leads then.
// The bytes may be read by this thread after copy_async_wait, by others after a barrier that follows it.
DEVICE void copy_async_16(SharedOffset to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
               "l"(__cvta_generic_to_global(from)), "r"(valid ? 16 : 0)
               : "memory");
}
// The same of 4 bytes, of which the first `count` are read and the others become zeros.
DEVICE void copy_async_4(SharedOffset to, const void* from, int count) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)),
               "l"(__cvta_generic_to_global(from)), "r"(count)
               : "memory");
}
// Closes the group of this thread's copies since the last commit (it may be empty).
DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `pending` of this thread's newest groups are under way.
template <int pending>
DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

}  // namespace fused_resnet::device
