package headrace.flink;

import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;

/** {@code HR_UTF8(bytes) -> STRING}: a text; NULL where the bytes are not UTF-8. Flink's own cast puts other characters there. */
public class HrUtf8 extends Scalar {
    private static final long serialVersionUID = 1;

    /** Returns the text. */
    public String eval(byte[] bytes) {
        return textOf(bytes);
    }

    static String textOf(byte[] bytes) {
        if (bytes == null) {
            return null;
        }
        try {
            return StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes)).toString();
        } catch (CharacterCodingException notUtf8) {
            return null;
        }
    }
}
