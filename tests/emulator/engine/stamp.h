// When and by whom a byte was accessed, and what that says about the order of two accesses.
//
// One clock for the whole emulator ticks at every barrier. A stamp carries the time of its thread's latest barrier, so
// that an access is ordered before another one if a barrier both threads took part in has ticked in between. Stamps of
// earlier launches are older than all barriers of this one: nothing is ever cleared.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fused_resnet::emulator {

using Time = std::uint64_t;

// The smallest group of threads that holds two given ones.
enum Scope : unsigned { same_thread, same_warp, same_block, whole_grid };
constexpr int scopes = 4;

// A thread as it accesses memory.
struct Actor {
  static constexpr int thread_bits = 10, block_bits = 18;

  // Bits 2 to 11: thread in the block, from bit 12: block. Stamps use bits 0 and 1.
  std::uint64_t who;
  // By scope, the time of the latest barrier of the group: what others in it did earlier happened before.
  const Time* barriers;

  static Actor of(int block, int thread, const Time* barriers) {
    return {(static_cast<std::uint64_t>(block) << thread_bits | static_cast<std::uint64_t>(thread)) << 2, barriers};
  }

  Time now() const { return barriers[same_warp]; }  // barriers of larger groups count for smaller ones
};

class Stamp {
 public:
  Stamp() = default;
  Stamp(const Actor& actor, Scope scope) : bits_(actor.now() << time_shift | actor.who | scope) {}

  Time time() const { return bits_ >> time_shift; }
  int thread() const { return static_cast<int>(bits_ >> 2) & ((1 << Actor::thread_bits) - 1); }
  int block() const { return static_cast<int>(bits_ >> (2 + Actor::thread_bits)) & ((1 << Actor::block_bits) - 1); }
  Scope scope() const { return static_cast<Scope>(bits_ & 3); }

  // The group that holds the actor and all threads the stamp stands for.
  Scope scope_with(const Actor& actor) const {
    const std::uint64_t difference = (bits_ ^ actor.who) & who_mask & ~3ull;
    const Scope distance = difference == 0                                 ? same_thread
                           : difference < 1ull << 7                        ? same_warp
                           : difference < 1ull << (2 + Actor::thread_bits) ? same_block
                                                                           : whole_grid;
    return std::max(distance, scope());
  }

  bool ordered_before(const Actor& actor) const {
    const Scope scope = scope_with(actor);
    return scope == same_thread || time() < actor.barriers[scope];
  }

  bool operator==(const Stamp& other) const { return bits_ == other.bits_; }
  std::uint64_t operator^(const Stamp& other) const { return bits_ ^ other.bits_; }

 private:
  static constexpr int time_shift = 2 + Actor::thread_bits + Actor::block_bits;
  static constexpr std::uint64_t who_mask = (1ull << time_shift) - 1;

  std::uint64_t bits_ = 0;  // the upper 34 for the time, more than a process sees barriers
};

}  // namespace fused_resnet::emulator
