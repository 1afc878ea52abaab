package headrace.reading;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Base64;

/** Records set aside. */
public final class DeadLetter {
    private DeadLetter() {}

    /**
     * Returns a record set aside as one line of JSON; what is not known is null.
     *
     * <p>The record stands there as it came, less a byte order mark and the {@code \r} of its line end; in base64 if it is not UTF-8.
     */
    public static String json(String pipeline, String topic, Long partition, Long offset, String reason, String detail, Long arrivedMs, byte[] raw) {
        StringBuilder out = new StringBuilder();
        text(pipeline, out.append("{\"pipeline\":"));
        text(topic, out.append(",\"topic\":"));
        out.append(",\"partition\":").append(partition).append(",\"offset\":").append(offset);
        text(reason, out.append(",\"reason\":"));
        text(detail, out.append(",\"detail\":"));
        out.append(",\"arrived_ms\":").append(arrivedMs);
        if (raw == null) {
            return out.append(",\"raw\":null}").toString();
        }
        int from = 0;
        int to = raw.length > from && raw[raw.length - 1] == '\r' ? raw.length - 1 : raw.length;
        if (Utf8.firstBad(raw, from, to) < 0) {
            text(new String(raw, from, to - from, StandardCharsets.UTF_8), out.append(",\"raw\":"));
        } else {
            byte[] bytes = Arrays.copyOfRange(raw, from, to);
            out.append(",\"raw_base64\":\"").append(Base64.getEncoder().encodeToString(bytes)).append('"');
        }
        return out.append('}').toString();
    }

    private static void text(String text, StringBuilder out) {
        if (text == null) {
            out.append("null");
        } else {
            JsonText.quote(text, out);
        }
    }
}
