// Threads that sleep until there is work: loops whose steps any thread may take.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace runoff {

// `count` steps of a task, taken in order by whichever threads are free. The first error ends it: the steps that
// nobody has begun are then skipped.
class Loop {
 public:
  Loop(int count, std::function<void(int)> task) : count_(count), task_(std::move(task)) {}

  void cancel() { has_failed_.store(true, std::memory_order_relaxed); }
  bool is_cancelled() const { return has_failed_.load(std::memory_order_relaxed); }

 private:
  friend class Pool;
  bool has_steps() const { return next_.load(std::memory_order_relaxed) < count_; }
  bool is_done() const { return done_.load(std::memory_order_acquire) == count_; }

  const int count_;
  const std::function<void(int)> task_;
  std::atomic<int> next_{0}, done_{0};
  std::atomic<bool> has_failed_{false};
  std::exception_ptr error_;  // written once, by whoever sets has_error_
  std::atomic<bool> has_error_{false};
};

class Pool {
 public:
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;

  // Begins a loop and returns at once.
  void start(std::shared_ptr<Loop> loop);
  // Waits until a started loop has ended or `seconds` have passed; whether it has ended.
  bool wait(Loop& loop, double seconds);
  // Raises the error that ended the loop, if one did.
  static void raise_error(Loop& loop);

  // From inside a step: runs `count` steps of `task` here, with the help of the threads that are idle.
  void run(int count, const std::function<void(int)>& task);
  // Threads without work: whether dividing work finely is worth it.
  int idle() const { return idle_.load(std::memory_order_relaxed); }

 private:
  void serve();
  void take_steps(Loop& loop);
  std::shared_ptr<Loop> next_loop();  // the lock is held

  std::mutex mutex_;
  std::condition_variable has_work_, has_ended_;
  std::deque<std::shared_ptr<Loop>> loops_;  // nested loops in front: somebody waits for them
  std::atomic<int> idle_{0};
  std::atomic<unsigned> published_{0};  // counts loops; tells a thread that is about to sleep that there is one
  bool stops_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace runoff
