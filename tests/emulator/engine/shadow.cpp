#include <engine/shadow.h>

#include <algorithm>

namespace fused_resnet::emulator {
namespace {

// No thread has written and read under one stamp, so the scope of a write's stamp is free to say this.
constexpr Scope in_flight = whole_grid;

// How many of the stamps need a look: nearly always all are equal, and one speaks for the rest.
template <int bytes>
int distinct(const Stamp* stamps) {
  std::uint64_t differences = 0;
  for (int i = 0; i < bytes; ++i) differences |= stamps[i] ^ stamps[0];
  return differences == 0 ? 1 : bytes;
}

template <int bytes>
int first_in_phase(const Stamp* stamps, int distinct, const Actor& actor) {
  int fresh = 0;
  for (int i = 0; i < distinct; ++i) fresh += stamps[i].time() < actor.barriers[whole_grid];
  return fresh * (bytes / distinct);
}

bool ordered(const Stamp& earlier, const Actor& actor, Time alive_since) {
  return earlier.time() < alive_since || earlier.ordered_before(actor);
}

// A byte keeps one stamp for all its readers. Readers that the present one is ordered after are as good as forgotten:
// whoever conflicts with them conflicts with it. Otherwise the stamp stands for all threads of the smallest group.
Stamp joined(const Stamp& reads, const Actor& actor, Time alive_since) {
  return Stamp(actor, ordered(reads, actor, alive_since) ? same_thread : reads.scope_with(actor));
}

Verdict verdict_on_write(const Stamp& write, const Actor& actor, Time alive_since) {
  if (write.scope() == in_flight && write.time() >= alive_since) return Verdict::in_flight;
  return ordered(write, actor, alive_since) ? Verdict::fine : Verdict::race_with_write;
}

}  // namespace

void Shadow::reserve(std::size_t bytes) {
  writes_.reserve(bytes * sizeof(Stamp));
  reads_.reserve(bytes * sizeof(Stamp));
}

template <int bytes>
Finding Shadow::read(std::size_t offset, const Actor& actor, Time alive_since) {
  const Stamp* write = writes() + offset;
  for (int i = 0, end = distinct<bytes>(write); i < end; ++i) {
    if (write[i].time() < alive_since) return {Verdict::uninitialised, write[i]};
    const Verdict verdict = verdict_on_write(write[i], actor, alive_since);
    if (verdict != Verdict::fine) return {verdict, write[i]};
  }
  Stamp* read = reads() + offset;
  const int different = distinct<bytes>(read);
  Finding finding;
  finding.first_in_phase = first_in_phase<bytes>(read, different, actor);
  if (different == 1) {
    std::fill_n(read, bytes, joined(read[0], actor, alive_since));
  } else {
    for (int i = 0; i < bytes; ++i) read[i] = joined(read[i], actor, alive_since);
  }
  return finding;
}

template <int bytes>
Finding Shadow::check_write(std::size_t offset, const Actor& actor, Time alive_since) {
  const Stamp* write = writes() + offset;
  const int different = distinct<bytes>(write);
  for (int i = 0; i < different; ++i) {
    const Verdict verdict = verdict_on_write(write[i], actor, alive_since);
    if (verdict != Verdict::fine) return {verdict, write[i]};
  }
  const Stamp* read = reads() + offset;
  for (int i = 0, end = distinct<bytes>(read); i < end; ++i) {
    if (!ordered(read[i], actor, alive_since)) return {Verdict::race_with_reads, read[i]};
  }
  return {Verdict::fine, {}, first_in_phase<bytes>(write, different, actor)};
}

template <int bytes>
Finding Shadow::write(std::size_t offset, const Actor& actor, Time alive_since) {
  const Finding finding = check_write<bytes>(offset, actor, alive_since);
  std::fill_n(writes() + offset, bytes, Stamp(actor, same_thread));
  return finding;
}

template <int bytes>
Finding Shadow::take_off(std::size_t offset, const Actor& actor, Time alive_since) {
  const Finding finding = check_write<bytes>(offset, actor, alive_since);
  std::fill_n(writes() + offset, bytes, Stamp(actor, in_flight));
  return finding;
}

template <int bytes>
void Shadow::land(std::size_t offset, const Actor& actor) {
  std::fill_n(writes() + offset, bytes, Stamp(actor, same_thread));
}

#define INSTANTIATE(bytes)                                               \
  template Finding Shadow::read<bytes>(std::size_t, const Actor&, Time); \
  template Finding Shadow::write<bytes>(std::size_t, const Actor&, Time)
INSTANTIATE(1);
INSTANTIATE(2);
INSTANTIATE(4);
INSTANTIATE(8);
INSTANTIATE(16);
#undef INSTANTIATE

#define INSTANTIATE(bytes)                                                   \
  template Finding Shadow::take_off<bytes>(std::size_t, const Actor&, Time); \
  template void Shadow::land<bytes>(std::size_t, const Actor&)
INSTANTIATE(4);
INSTANTIATE(16);
#undef INSTANTIATE

}  // namespace fused_resnet::emulator
