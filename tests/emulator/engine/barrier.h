// Where threads wait for each other.
#pragma once

#include <vector>

#include <engine/place.h>

namespace fused_resnet::emulator {

struct Thread;

// What a thread does when it waits for others: all of them must come to the same primitive in the same line.
struct Meeting {
  const char* primitive = "";
  Place place;

  // Names are literals, but each file that uses one may have its own copy.
  bool operator==(const Meeting& other) const {
    return place == other.place && std::strcmp(primitive, other.primitive) == 0;
  }
};

class Barrier {
 public:
  void reset(int expected);
  // The running thread joins the meeting. True for the last one that was expected: it must open the barrier.
  bool join(const Meeting& meeting);
  // Lets everybody go on, the running thread included.
  void open();

 private:
  int expected_ = 0;
  std::vector<Thread*> present_;
};

}  // namespace fused_resnet::emulator
