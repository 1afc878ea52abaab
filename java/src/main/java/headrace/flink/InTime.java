package headrace.flink;

import java.util.Comparator;
import java.util.Map;
import java.util.TreeMap;

/** Readings in the order of their times, and what lies between them. */
final class InTime {
    private static final long UNCERTAIN = 0x40000000L;

    private InTime() {}

    /** What holds for a value and the one after it, with the milliseconds between them. */
    interface Between<T> {
        void take(T value, T next, long milliseconds);
    }

    /** Returns the values by time, of several at one time the greatest, of which NULL is the least; empty if there are none. */
    static <T> TreeMap<Long, T> ordered(Long[] times, T[] values, Comparator<? super T> order) {
        TreeMap<Long, T> found = new TreeMap<>();
        for (int place = 0; times != null && place < times.length; place++) {
            T value = values[place];
            T before = found.get(times[place]);
            if (before == null || (value != null && order.compare(value, before) > 0)) {
                found.put(times[place], value);
            }
        }
        return found;
    }

    /** Calls for each reading but the last. */
    static <T> void between(TreeMap<Long, T> readings, Between<T> taken) {
        Map.Entry<Long, T> before = null;
        for (Map.Entry<Long, T> one : readings.entrySet()) {
            if (before != null) {
                taken.take(before.getValue(), one.getValue(), one.getKey() - before.getKey());
            }
            before = one;
        }
    }

    static boolean isGood(Long quality) {
        return quality != null && quality >= 0 && quality < UNCERTAIN;
    }

    /** Returns the milliseconds with good quality. */
    static long good(TreeMap<Long, Long> qualities) {
        long[] sum = new long[1];
        between(qualities, (quality, next, milliseconds) -> sum[0] += isGood(quality) ? milliseconds : 0);
        return sum[0];
    }
}
