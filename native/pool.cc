#include "pool.h"

#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace runoff {
namespace {

// A thread that has just run out of work looks for more this long before it sleeps. Waking it costs 5 to 50
// microseconds, and the stages of one short document are 100 apart; longer would burn a busy machine's cores.
constexpr std::chrono::microseconds kPatience(20);

void pause_briefly() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <class Condition>
bool holds_soon(const Condition& condition) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  do {
    for (int i = 0; i < 32; ++i) {
      if (condition()) return true;
      pause_briefly();
    }
  } while (std::chrono::steady_clock::now() < end);
  return condition();
}

}  // namespace

Pool::Pool(int threads) {
  try {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { serve(); });
  } catch (const std::system_error&) {
    if (threads_.empty()) throw;  // fewer than asked for still do the work
  }
}

Pool::~Pool() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stops_ = true;
  }
  has_work_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

std::shared_ptr<Loop> Pool::next_loop() {
  while (!loops_.empty() && !loops_.front()->has_steps()) loops_.pop_front();
  for (const std::shared_ptr<Loop>& loop : loops_) {
    if (loop->has_steps()) return loop;
  }
  return nullptr;
}

void Pool::serve() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    std::shared_ptr<Loop> loop = next_loop();
    if (!loop) {
      if (stops_) return;
      const unsigned seen = published_.load(std::memory_order_relaxed);
      ++idle_;
      lock.unlock();
      const bool has_more = holds_soon([&] { return published_.load(std::memory_order_relaxed) != seen; });
      lock.lock();
      if (!has_more) {
        has_work_.wait(lock, [&] { return stops_ || published_.load(std::memory_order_relaxed) != seen; });
      }
      --idle_;
      continue;
    }
    lock.unlock();
    take_steps(*loop);
    lock.lock();
  }
}

void Pool::take_steps(Loop& loop) {
  for (;;) {
    const int step = loop.next_.fetch_add(1, std::memory_order_relaxed);
    if (step >= loop.count_) return;
    if (!loop.is_cancelled()) {
      try {
        loop.task_(step);
      } catch (...) {
        if (!loop.has_error_.exchange(true)) loop.error_ = std::current_exception();
        loop.cancel();
      }
    }
    if (loop.done_.fetch_add(1, std::memory_order_acq_rel) + 1 == loop.count_) {
      // Under the lock, or a waiter between its check and its sleep would miss it.
      const std::lock_guard<std::mutex> lock(mutex_);
      has_ended_.notify_all();
    }
  }
}

void Pool::start(std::shared_ptr<Loop> loop) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    loops_.push_back(std::move(loop));
    ++published_;
  }
  has_work_.notify_all();
}

bool Pool::wait(Loop& loop, double seconds) {
  std::unique_lock<std::mutex> lock(mutex_);
  return has_ended_.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return loop.is_done(); });
}

void Pool::raise_error(Loop& loop) {
  if (loop.has_error_.load()) std::rethrow_exception(loop.error_);
}

void Pool::run(int count, const std::function<void(int)>& task) {
  if (count <= 1 || idle() == 0) {
    for (int step = 0; step < count; ++step) task(step);
    return;
  }
  const auto loop = std::make_shared<Loop>(count, task);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    loops_.push_front(loop);
    ++published_;
  }
  has_work_.notify_all();
  take_steps(*loop);
  if (!holds_soon([&] { return loop->is_done(); })) {
    std::unique_lock<std::mutex> lock(mutex_);
    has_ended_.wait(lock, [&] { return loop->is_done(); });
  }
  raise_error(*loop);
}

}  // namespace runoff
