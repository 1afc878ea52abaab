package headrace.spark;

import java.io.FileNotFoundException;
import java.io.IOException;
import java.net.URI;
import java.net.URISyntaxException;
import java.nio.file.Files;
import java.nio.file.attribute.PosixFilePermissions;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.ChecksumFs;
import org.apache.hadoop.fs.DelegateToFileSystem;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.FsConstants;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.RawLocalFileSystem;
import org.apache.hadoop.fs.permission.FsPermission;

/**
 * This machine's files for the checkpoints of Spark's streams: those of Hadoop, with the same names, contents and checksums.
 *
 * <p>Hadoop's own starts {@code chmod} and {@code readlink} as processes, some dozens in each micro-batch; here Java does it.
 */
public class LocalFiles extends ChecksumFs {
    public LocalFiles(URI uri, Configuration configuration) throws IOException, URISyntaxException {
        super(new Unchecked(configuration));
    }

    private static final class Unchecked extends DelegateToFileSystem {
        Unchecked(Configuration configuration) throws IOException, URISyntaxException {
            super(FsConstants.LOCAL_FS_URI, new InJava(), configuration, FsConstants.LOCAL_FS_URI.getScheme(), false);
        }

        @Override
        public int getUriDefaultPort() {
            return -1;
        }

        @Override
        public boolean isValidName(String name) {
            return true;
        }
    }

    private static final class InJava extends RawLocalFileSystem {
        @Override
        public void setPermission(Path path, FsPermission permission) throws IOException {
            if (permission.getStickyBit()) {
                super.setPermission(path, permission);
                return;
            }
            String bits = permission.getUserAction().SYMBOL + permission.getGroupAction().SYMBOL + permission.getOtherAction().SYMBOL;
            Files.setPosixFilePermissions(pathToFile(path).toPath(), PosixFilePermissions.fromString(bits));
        }

        @Override
        public FileStatus getFileLinkStatus(Path path) throws IOException {
            java.nio.file.Path file = pathToFile(path).toPath();
            if (Files.isSymbolicLink(file)) {
                return super.getFileLinkStatus(path);
            }
            if (!Files.exists(file)) {
                throw new FileNotFoundException("File " + path + " does not exist");
            }
            return getFileStatus(path);
        }
    }
}
