package headrace.flink;

import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Base64;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;

/**
 * Runs a Flink SQL script where it is started: {@code RunScript --script-base64 TEXT} or {@code --script PATH}.
 *
 * <p>It is what a cluster starts when the jar is submitted by REST, and it does not wait for the job; {@code SET
 * 'table.dml-sync' = 'true'} makes it wait.
 */
public final class RunScript {
    private static final String TEXT = "'((?:[^']|'')*)'";
    private static final Pattern SET = Pattern.compile("SET\\s+" + TEXT + "\\s*=\\s*" + TEXT, Pattern.CASE_INSENSITIVE);

    private RunScript() {}

    /** Runs the script that the arguments name. */
    public static void main(String[] arguments) throws Exception {
        List<String> statements = Statements.of(script(arguments));
        Configuration configuration = new Configuration();
        int leading = 0;
        while (leading < statements.size() && set(statements.get(leading), configuration)) {
            leading++;
        }
        TableEnvironment environment = TableEnvironment.create(EnvironmentSettings.newInstance().withConfiguration(configuration).build());
        Named.install(environment);
        for (String statement : statements.subList(leading, statements.size())) {
            if (set(statement, configuration)) {
                environment.getConfig().addConfiguration(configuration);
            } else {
                environment.executeSql(statement);
            }
        }
    }

    private static String script(String[] arguments) throws Exception {
        if (arguments.length == 2 && arguments[0].equals("--script-base64")) {
            return new String(Base64.getDecoder().decode(arguments[1]), StandardCharsets.UTF_8);
        }
        if (arguments.length == 2 && arguments[0].equals("--script")) {
            return Files.readString(Path.of(arguments[1]));
        }
        throw new IllegalArgumentException("usage: RunScript --script-base64 TEXT | --script PATH");
    }

    /** Puts what a SET statement sets into the configuration, and returns whether it is one. */
    private static boolean set(String statement, Configuration configuration) {
        Matcher match = SET.matcher(statement);
        if (!match.matches()) {
            return false;
        }
        configuration.setString(match.group(1).replace("''", "'"), match.group(2).replace("''", "'"));
        return true;
    }
}
