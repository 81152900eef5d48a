// What is known about each byte of a range of memory: who wrote it last and who reads it.
#pragma once

#include <cstddef>

#include <engine/mapping.h>
#include <engine/stamp.h>

namespace fused_resnet::emulator {

enum class Verdict { fine, uninitialised, in_flight, race_with_write, race_with_reads };

struct Finding {
  Verdict verdict = Verdict::fine;
  Stamp other;             // the access in conflict
  int first_in_phase = 0;  // bytes that nobody had accessed in this way since the grid's latest barrier
};

class Shadow {
 public:
  void reserve(std::size_t bytes);

  // The memory had another life before `alive_since`: what happened then neither conflicts nor initialises.
  template <int bytes>
  Finding read(std::size_t offset, const Actor& actor, Time alive_since);
  template <int bytes>
  Finding write(std::size_t offset, const Actor& actor, Time alive_since);

  // A write that may land at any time until `land`.
  template <int bytes>
  Finding take_off(std::size_t offset, const Actor& actor, Time alive_since);
  template <int bytes>
  void land(std::size_t offset, const Actor& actor);

  const Stamp* writes() const { return reinterpret_cast<const Stamp*>(writes_.first()); }

 private:
  Stamp* writes() { return reinterpret_cast<Stamp*>(writes_.first()); }
  Stamp* reads() { return reinterpret_cast<Stamp*>(reads_.first()); }

  template <int bytes>
  Finding check_write(std::size_t offset, const Actor& actor, Time alive_since);

  Mapping writes_, reads_;
};

}  // namespace fused_resnet::emulator
