#include <engine/counters.h>

namespace fused_resnet::emulator {
namespace {

// Names are identifiers and template arguments: nothing in them needs an escape.
std::string member(const char* name, const std::string& value) { return '"' + std::string(name) + "\": " + value; }
std::string member(const char* name, std::int64_t value) { return member(name, std::to_string(value)); }

template <class Items, class Text>
std::string list(const char* brackets, const Items& items, Text text) {
  std::string joined(1, brackets[0]);
  for (const auto& item : items) {
    if (joined.size() > 1) joined += ", ";
    joined += text(item);
  }
  return joined + brackets[1];
}

std::string json(const Traffic& traffic) {
  return "{" + member("distinct_read", traffic.distinct_read) + ", " +
         member("distinct_written", traffic.distinct_written) + ", " +
         member("requested_read", traffic.requested_read) + ", " +
         member("requested_written", traffic.requested_written) + "}";
}

std::string json(const Work& work) {
  constexpr const char* kinds[instructions] = {
      "product", "matrices", "transposed_matrices", "exchange", "shared_access", "load", "store", "copy"};
  std::vector<std::pair<const char*, std::int64_t>> issued;
  for (int kind = 0; kind < instructions; ++kind) issued.emplace_back(kinds[kind], work.issued[kind]);
  return "{" + member("multiply_adds", work.multiply_adds) + ", " + member("waits", work.waits) + ", " +
         member("under_way", work.under_way) + ", " + member("drained", std::to_string(work.drained)) + ", " +
         member("load_rounds", work.load_rounds) + ", " + member("rounds", std::to_string(work.rounds)) + ", " +
         member("longest", std::to_string(work.longest)) + ", " + member("barriers", work.barriers) + ", " +
         member("wavefronts", work.wavefronts) + ", " +
         member("issued", list("{}", issued, [](const auto& of) { return member(of.first, of.second); })) + "}";
}

std::string json(const Phase& phase) {
  const std::string buffers =
      list("{}", phase.buffers, [](const auto& buffer) { return member(buffer.first.c_str(), json(buffer.second)); });
  return "{" + member("work", json(phase.work)) + ", " + member("buffers", buffers) + "}";
}

std::string json(const Record& record) {
  return "{" + member("kernel", '"' + record.kernel + '"') + ", " +
         member("cooperative", record.cooperative ? "true" : "false") + ", " + member("blocks", record.blocks) + ", " +
         member("threads", record.threads) + ", " +
         member("phases", list("[]", record.phases, [](const Phase& phase) { return json(phase); })) + "}";
}

}  // namespace

std::string json(const std::vector<Record>& records) {
  return list("[]", records, [](const Record& record) { return json(record); });
}

}  // namespace fused_resnet::emulator
